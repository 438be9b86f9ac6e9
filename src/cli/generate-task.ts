/**
 * @file The tasks of `tessera generate`: conditions from files, texts and sound, one task after the
 * other, and long videos by continuing the last frames again and again.
 */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";
import type { ClipRequest, Made, Source } from "../eval/generation.ts";
import type { OpenedRun } from "../trainers/open-run.ts";
import { print, say } from "./output.ts";

export interface TaskRequest {
  readonly task: string;
  readonly chain: readonly string[];
  readonly continue: number;
  readonly condition: readonly string[];
  readonly text: readonly string[];
  readonly audio: readonly string[];
  /** One class a clip; -1 without. */
  readonly labels: Int32Array;
  readonly n: number;
  readonly seed: number;
  readonly format: "mp4" | "gif" | "png" | "mkv";
  readonly fps: number;
  readonly out: string;
}

/** Frames at the end of a clip that a continuation starts from. */
function givenFrames(run: OpenedRun, task: string): number {
  const { objective } = run.config;
  if (objective?.type === "masked" || objective?.type === "diffusion") {
    return objective.condition_frames;
  }
  if (objective?.type === "multimodal" && task !== "I2V") {
    const { tokenizer } = run;
    const step = (tokenizer.clip.frames - 1) / Math.max(1, tokenizer.grid[0] - 1);
    return 1 + (objective.prefix_frames - 1) * step;
  }
  return 1;
}

/** Frames of a condition file that a task looks at. */
function neededFrames(run: OpenedRun, task: string): number {
  return ["FP", "CFP", "I2V", "AVC"].includes(task)
    ? givenFrames(run, task)
    : run.tokenizer.clip.frames;
}

/**
 * Make clips and write them.
 * @param maker the run's generator, where it is compiled already
 */
export async function generateTask(
  run: OpenedRun,
  request: TaskRequest,
  maker?: (request: ClipRequest) => Promise<Made>,
): Promise<void> {
  const { clipGenerator } = await import("../eval/generation.ts");
  const { Random } = await import("../runtime/random.ts");
  const generate = maker ?? clipGenerator(run.device, run.tokenizer, run.objective!);
  const tasks = [request.task, ...request.chain];
  const known = run.objective!.tasks?.names ?? [];
  for (const task of tasks) {
    if (!known.includes(task)) {
      throw new UserError(
        known.length === 0
          ? `the run was trained by class, not on tasks, so it cannot do ${task}`
          : `the run was not trained for the task ${task}`,
        known.length === 0 ? "leave --task out" : `its tasks are ${known.join(", ")}`,
      );
    }
  }
  if (request.continue > 0 && !["FP", "CFP", "AVC", "I2V"].includes(tasks.at(-1)!)) {
    throw new UserError(
      `--continue goes on with the last frames, which ${tasks.at(-1)!} does not start from`,
      "use it with FP, CFP, I2V or AVC, or add --then FP",
    );
  }
  let sources = await gatherSources(run, request);
  let made: Made = {};
  for (const [step, task] of tasks.entries()) {
    const seed = new Random(request.seed, "cli/generate/task", step).int(2 ** 31);
    made = await generate({ task, sources, seed, onProgress: report(task) });
    sources = sources.map((source, i) => ({
      ...source,
      ...(made.clips && { clip: whole(made.clips[i]!, run) }),
      ...(made.audio && { audio: made.audio[i]! }),
    }));
  }
  let clips = made.clips;
  let sound = made.audio;
  const last = tasks.at(-1)!;
  const overlap = givenFrames(run, last);
  const { frames, height, width } = run.tokenizer.clip;
  const plane = height * width * 3;
  for (let i = 0; i < request.continue; i++) {
    const ends = clips!.map((clip) => {
      const start = new Uint8Array(frames * plane);
      start.set(clip.subarray(clip.length - overlap * plane));
      return start;
    });
    const seed = new Random(request.seed, "cli/generate/continue", i).int(2 ** 31);
    const next: Made = await generate({
      task: last,
      sources: sources.map((source, b) => ({
        ...source,
        clip: ends[b]!,
        ...(sound && { audio: tail(sound[b]!, overlap / frames) }),
      })),
      seed,
      onProgress: report(`${last} ${i + 1}/${request.continue}`),
    });
    clips = clips!.map((clip, b) => joined(clip, next.clips![b]!.subarray(overlap * plane)));
    sound =
      sound &&
      next.audio?.map((wave, b) => {
        const from = Math.round((wave.length * overlap) / frames);
        return joinedSound(sound![b]!, wave.subarray(from));
      });
  }
  await writeMade(run, request, { clips, sound, sources });
}

const report =
  (what: string) =>
  (done: number, total: number): void => {
    if (done === total || done % 50 === 0) {
      say(`${what}: ${done}/${total} steps`);
    }
  };

/** A made image as the first frame of a clip that stands still. */
function whole(clip: Uint8Array, run: OpenedRun): Uint8Array {
  const { frames, height, width } = run.tokenizer.clip;
  const length = frames * height * width * 3;
  const out = new Uint8Array(length);
  for (let at = 0; at < length; at += clip.length) {
    out.set(clip.subarray(0, Math.min(clip.length, length - at)), at);
  }
  return out;
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

function joinedSound(a: Float32Array, b: Float32Array): Float32Array {
  const all = new Float32Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

/** The end of a waveform put to its beginning. */
function tail(wave: Float32Array, share: number): Float32Array {
  const out = new Float32Array(wave.length);
  out.set(wave.subarray(wave.length - Math.round(wave.length * share)));
  return out;
}

/** The conditions of each clip, from files and options taken in turn. */
async function gatherSources(run: OpenedRun, request: TaskRequest): Promise<Source[]> {
  const { taskParts } = await import("../objectives/multimodal/layouts.ts");
  const { usesPixels } = await import("../objectives/tasks.ts");
  const { type } = run.objective!;
  const parts =
    type === "multimodal" ? taskParts[request.task as keyof typeof taskParts] : undefined;
  const needs =
    type === "super-resolution"
      ? { condition: request.task === "SR", text: request.task === "T2V", audio: false }
      : {
          condition: parts ? parts.visual !== undefined : usesPixels(request.task as "FP"),
          text: parts?.text === true,
          audio: parts?.audio !== undefined,
        };
  // Captions help super-resolution along and may be left out.
  const optional = type === "super-resolution" && run.objective!.textLength !== undefined;
  for (const [name, needed] of Object.entries(needs)) {
    const given = request[name as "condition" | "text" | "audio"];
    if (needed && given.length === 0) {
      throw new UserError(
        `the task ${request.task} needs --${name}`,
        name === "text" ? `for example --text "a red circle moves left"` : `give a file`,
      );
    }
    const allowed = name === "text" && (optional || request.chain.length > 0);
    if (!needed && given.length > 0 && !allowed) {
      throw new UserError(
        `the task ${request.task} does not look at --${name}`,
        `leave it out, or choose a task that does`,
      );
    }
  }
  const clips = await Promise.all(
    request.condition.map((file) => readClip(run, file, neededFrames(run, request.task))),
  );
  const sounds = await Promise.all(request.audio.map((file) => readSound(run, file)));
  const blank = request.text.findIndex((text) => text.trim() === "");
  if (blank >= 0) {
    throw new UserError(
      `--text ${blank + 1} has no words`,
      'for example --text "a large red circle moves left"',
    );
  }
  // Words are checked before anything is sampled.
  const limit = run.objective!.textLength ?? 0;
  await run.objective!.space.text?.vectors?.prepare(request.text);
  for (const text of request.text) {
    run.objective!.space.text?.encode(text, limit);
  }
  return Array.from({ length: request.n }, (_, i) => {
    const turn = <T>(values: readonly T[]): T | undefined => values[i % values.length];
    const [clip, audio, caption] = [turn(clips), turn(sounds), turn(request.text)];
    return {
      label: request.labels[i]!,
      ...(clip && { clip }),
      ...(audio && { audio }),
      ...(caption !== undefined && { caption }),
    };
  });
}

/** A condition file as a clip of the tokenizer's size; frames that no task looks at repeat the last. */
async function readClip(run: OpenedRun, file: string, needed: number): Promise<Uint8Array> {
  if (!existsSync(file)) {
    throw new UserError(`${file}: there is no such file`);
  }
  const { openFrames } = await import("../data/frames.ts");
  const { frames, height, width } = run.tokenizer.clip;
  const source = await openFrames(file);
  try {
    if (source.height !== height || source.width !== width) {
      throw new UserError(
        `${file} has frames of ${source.width} x ${source.height}, the model takes ${width} x ${height}`,
        `scale it first, e.g. ffmpeg -i ${file} -vf scale=${width}:${height} scaled.mkv`,
      );
    }
    const plane = height * width * 3;
    const clip = new Uint8Array(frames * plane);
    let count = 0;
    for (const span of source.spans(1)) {
      if (count < frames) {
        clip.set(span, count * plane);
      }
      count += 1;
    }
    if (count < needed) {
      throw new UserError(
        `${file} has ${count} frames, the task looks at ${needed}`,
        `give a clip of at least ${needed} frames`,
      );
    }
    const { dataset } = run.config;
    const rate = "fps" in dataset ? dataset.fps : null;
    // A picture has no rate.
    if (needed > 1 && rate !== null && Math.abs(source.fps / rate - 1) > 0.02) {
      const fps = Number(source.fps.toFixed(3));
      throw new UserError(
        `${file} shows ${fps} frames a second, the model was trained at ${rate}`,
        `take other frames first, e.g. ffmpeg -i ${file} -r ${rate} -c:v ffv1 slower.mkv`,
      );
    }
    for (let t = count; t < frames; t++) {
      clip.copyWithin(t * plane, (count - 1) * plane, count * plane);
    }
    return clip;
  } finally {
    source.close();
  }
}

async function readSound(run: OpenedRun, file: string): Promise<Float32Array> {
  if (!existsSync(file)) {
    throw new UserError(`${file}: there is no such file`);
  }
  const [{ loadAv }, { decodeSound }, { MediaError }] = await Promise.all([
    import("../data/av.ts"),
    import("../data/sound.ts"),
    import("../data/probe.ts"),
  ]);
  const { samples } = run.objective!.space.audio!;
  const { dataset } = run.config;
  const rate = "audio_rate" in dataset ? Number(dataset.audio_rate) : 0;
  try {
    return decodeSound(
      await loadAv(),
      { kind: "media", file },
      { start: 0, samples, rate, begin: 0 },
    );
  } catch (error) {
    if (error instanceof MediaError) {
      throw new UserError(`${file} has no sound that can be read: ${error.message}`);
    }
    throw error;
  }
}

async function writeMade(
  run: OpenedRun,
  request: TaskRequest,
  {
    clips,
    sound,
    sources,
  }: {
    readonly clips: readonly Uint8Array[] | undefined;
    readonly sound: readonly Float32Array[] | undefined;
    readonly sources: readonly Source[];
  },
): Promise<void> {
  const { writeClip } = await import("./clip-files.ts");
  const { playable } = await import("../data/playable.ts");
  const { height, width } = run.tokenizer.clip;
  for (let i = 0; i < request.n; i++) {
    const name = [
      `seed${request.seed}`,
      String(i).padStart(3, "0"),
      [request.task, ...request.chain].join("-"),
    ].join("-");
    // Sound alone is written with the picture it was made for.
    const data = clips?.[i] ?? sources[i]!.clip!;
    const frames = data.length / (height * width * 3);
    const wave = sound?.[i];
    const path = join(request.out, `${name}.${request.format}`);
    const rate = wave && Math.round((wave.length * request.fps) / frames);
    await writeClip(
      path,
      request.format,
      { data, frames, height, width },
      {
        fps: request.fps,
        columns: 16,
        ...(wave && rate && { sound: playable({ samples: wave, rate }) }),
      },
    );
    print(path);
  }
}
