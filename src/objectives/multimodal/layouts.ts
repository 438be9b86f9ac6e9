/**
 * @file The sequence of each task of a multi-modal language model (VideoPoet, Kondratyuk et al. 2024,
 * §3 and figure 2): a prefix of conditions under bidirectional attention, then the outputs, token by
 * token. Modalities that a task does not use are left out.
 *
 *   bos task source res [bot_i text eot_i] [bov_i visual eov_i] [boa_i audio eoa_i]
 *   [bov_o visual eov_o] [boa_o audio eoa_o] eos
 *
 * | task | given | made |
 * | --- | --- | --- |
 * | T2V, T2AV, T2I | text | video; video and audio; image |
 * | I2V | the first frame | video |
 * | FP | the first latent frames | video |
 * | IP, OP | tokens of the clip with its centre, its borders padded (COMMIT) | video |
 * | ST | text, tokens of flow- and depth-like channels | video |
 * | V2A, A2V | video; audio | audio; video |
 * | AVC | the first latent frames and their audio | video and audio |
 * | UNC | nothing | video |
 */

import {
  joinFactors,
  type OutputType,
  type Special,
  special,
  taskToken,
  type Vocabulary,
} from "./vocabulary.ts";

export const multimodalTasks = [
  "T2V",
  "T2AV",
  "T2I",
  "I2V",
  "FP",
  "IP",
  "OP",
  "ST",
  "V2A",
  "A2V",
  "AVC",
  "UNC",
] as const;
export type MultimodalTask = (typeof multimodalTasks)[number];

interface TaskParts {
  readonly text?: true;
  /** Visual condition: the first frame, the first latent frames, all frames, or a changed clip. */
  readonly visual?: "image" | "prefix" | "video" | "variant";
  readonly audio?: "prefix" | "audio";
  readonly output: OutputType;
  /** Which change of the clip is the visual condition. */
  readonly variant?: "IPC" | "OPC" | "flow";
}

export const taskParts: { readonly [task in MultimodalTask]: TaskParts } = {
  T2V: { text: true, output: "video" },
  T2AV: { text: true, output: "video+audio" },
  T2I: { text: true, output: "image" },
  I2V: { visual: "image", output: "video" },
  FP: { visual: "prefix", output: "video" },
  IP: { visual: "variant", variant: "IPC", output: "video" },
  OP: { visual: "variant", variant: "OPC", output: "video" },
  ST: { text: true, visual: "variant", variant: "flow", output: "video" },
  V2A: { visual: "video", output: "audio" },
  A2V: { audio: "audio", output: "video" },
  AVC: { visual: "prefix", audio: "prefix", output: "video+audio" },
  UNC: { output: "video" },
};

/** Sizes that all layouts share. */
export interface Sizes {
  /** Visual tokens of a clip and of its first latent frame, and latent frames. */
  readonly video: number;
  readonly image: number;
  /** Latent frames that FP and AVC are given. */
  readonly prefixFrames: number;
  /** Audio frames and levels; 0 frames without sound. */
  readonly audioFrames: number;
  readonly audioLevels: number;
  /** Audio frames that AVC is given. */
  readonly audioPrefix: number;
  readonly audioOrder: "level-major" | "frame-major";
  /** Text positions. */
  readonly text: number;
  /** Whether an image ends with eov_o and eos; without, it may go on as a video. */
  readonly imageEnds: boolean;
}

/** What stands at a slot of a sequence. */
export type Slot =
  | { readonly kind: "special"; readonly id: number }
  | { readonly kind: "text" | "visual" | "audio"; readonly index: number };

export interface Layout {
  readonly task: MultimodalTask;
  /** All slots; those from `prefix` on are put out. */
  readonly slots: readonly Slot[];
  readonly prefix: number;
}

/** The order in which audio tokens stand: indices into [frames, levels], of the first `frames`. */
export function audioOrder(
  { audioFrames, audioLevels, audioOrder: order }: Sizes,
  frames = audioFrames,
): number[] {
  const all: number[] = [];
  if (order === "level-major") {
    for (let level = 0; level < audioLevels; level++) {
      for (let frame = 0; frame < frames; frame++) {
        all.push(frame * audioLevels + level);
      }
    }
  } else {
    for (let i = 0; i < frames * audioLevels; i++) {
      all.push(i);
    }
  }
  return all;
}

/** The sequence of a task. */
export function layTask(task: MultimodalTask, sizes: Sizes): Layout {
  const { text, visual, audio, output } = taskParts[task];
  const of = (name: Special): Slot => ({ kind: "special", id: special[name] });
  const run = (kind: "text" | "visual", count: number): Slot[] =>
    Array.from({ length: count }, (_, index) => ({ kind, index }));
  const sound = (frames: number): Slot[] =>
    audioOrder(sizes, frames).map((index) => ({ kind: "audio", index }));
  const given = {
    image: sizes.image,
    prefix: sizes.image * sizes.prefixFrames,
    video: sizes.video,
    variant: sizes.video,
  };
  const prefix: Slot[] = [
    of("bos"),
    { kind: "special", id: taskToken(output) },
    of("source"),
    of("res"),
    ...(text ? [of("bot_i"), ...run("text", sizes.text), of("eot_i")] : []),
    ...(visual ? [of("bov_i"), ...run("visual", given[visual]), of("eov_i")] : []),
    ...(audio
      ? [
          of("boa_i"),
          ...sound(audio === "audio" ? sizes.audioFrames : sizes.audioPrefix),
          of("eoa_i"),
        ]
      : []),
  ];
  const pixels = output === "audio" ? 0 : output === "image" ? sizes.image : sizes.video;
  const ends = output !== "image" || sizes.imageEnds;
  const made: Slot[] = [
    ...(pixels > 0 ? [of("bov_o"), ...run("visual", pixels), ...(ends ? [of("eov_o")] : [])] : []),
    ...(output.includes("audio") ? [of("boa_o"), ...sound(sizes.audioFrames), of("eoa_o")] : []),
    ...(ends ? [of("eos")] : []),
  ];
  return { task, slots: [...prefix, ...made], prefix: prefix.length };
}

/** What the slots of one sample are filled with. */
export interface Material {
  /** Sub-ids [N, F] of the clip, and of its variant. */
  readonly video?: ArrayLike<number>;
  readonly variant?: ArrayLike<number>;
  /** Audio codes [frames, levels], each in its level's range. */
  readonly audio?: ArrayLike<number>;
  /** Text tokens, or rows of an encoder's table; -1 pads. */
  readonly text?: ArrayLike<number>;
}

/**
 * The ids of a sequence.
 * @param codes audio codes a level
 */
export function fillLayout(
  { task, slots, prefix }: Layout,
  material: Material,
  vocabulary: Vocabulary,
  factors: readonly number[],
  { audioLevels }: Sizes,
): Int32Array {
  const codes = audioLevels > 0 ? vocabulary.audio.size / audioLevels : 0;
  return Int32Array.from(slots, (slot, i) => {
    switch (slot.kind) {
      case "special":
        return slot.id;
      case "text": {
        const word = material.text?.[slot.index] ?? -1;
        // An encoder's texts share one id.
        return word < 0
          ? special.pad
          : vocabulary.text.first + Math.min(word, vocabulary.text.size - 1);
      }
      case "visual": {
        const changed = i < prefix && taskParts[task].visual === "variant";
        const ids = changed ? material.variant : material.video;
        return ids === undefined
          ? special.pad
          : vocabulary.visual.first + joinFactors(ids, slot.index * factors.length, factors);
      }
      case "audio": {
        const level = slot.index % audioLevels;
        const code = material.audio?.[slot.index];
        return code === undefined ? special.pad : vocabulary.audio.first + level * codes + code;
      }
    }
  });
}

/**
 * Where the vectors of texts are read from: each slot's row of a table of `text` vectors a sample behind
 * one row of zeros, which all other slots and all padding read.
 * @param text rows of a sample's text in its encoder's table; -1 pads
 */
export function vectorRows(
  { slots }: Layout,
  text: ArrayLike<number> | undefined,
  sample: number,
  { text: length }: Sizes,
): Int32Array {
  return Int32Array.from(slots, (slot) =>
    slot.kind === "text" && (text?.[slot.index] ?? -1) >= 0 ? 1 + sample * length + slot.index : 0,
  );
}

/** Tasks whose sequences have one length, trained together in a step (alternating gradient descent). */
export interface LengthGroup {
  readonly tasks: readonly number[];
  /** The longest sequence; others are padded to it. */
  readonly length: number;
  /** The fewest prefix slots of its tasks. */
  readonly prefix: number;
}

/**
 * Group tasks by the length of their sequences.
 * @param tolerance a sequence may be shorter than its group's by this share; 0 groups equal lengths
 */
export function groupByLength(layouts: readonly Layout[], tolerance: number): LengthGroup[] {
  const order = [...layouts.keys()].toSorted(
    (a, b) => layouts[b]!.slots.length - layouts[a]!.slots.length || a - b,
  );
  const groups: number[][] = [];
  for (const task of order) {
    const longest = groups.at(-1)?.[0];
    const fits =
      longest !== undefined &&
      layouts[task]!.slots.length >= (1 - tolerance) * layouts[longest]!.slots.length;
    if (fits) {
      groups.at(-1)!.push(task);
    } else {
      groups.push([task]);
    }
  }
  return groups.map((tasks) => ({
    tasks,
    length: layouts[tasks[0]!]!.slots.length,
    prefix: Math.min(...tasks.map((task) => layouts[task]!.prefix)),
  }));
}

/**
 * The share of slots that only pad, when tasks are drawn by weight: in their groups, and when all
 * tasks were padded to the longest sequence instead.
 */
export function paddingShares(
  layouts: readonly Layout[],
  groups: readonly LengthGroup[],
  weights: readonly number[],
): { readonly grouped: number; readonly single: number } {
  let [used, grouped, single] = [0, 0, 0];
  const longest = Math.max(...layouts.map(({ slots }) => slots.length));
  for (const group of groups) {
    for (const task of group.tasks) {
      used += weights[task]! * layouts[task]!.slots.length;
      grouped += weights[task]! * group.length;
      single += weights[task]! * longest;
    }
  }
  return { grouped: 1 - used / grouped, single: 1 - used / single };
}
