/**
 * @file How a masked transformer is shown a condition: COMMIT and its two rivals (MAGVIT, Yu et al.
 * 2023, §3.2 and table 5).
 *
 * - **commit**: a hidden position inside the condition holds the token of the *padded* clip, any other
 *   hidden position holds [MASK]. The sequence has one length for all tasks.
 * - **prefix**: the condition's tokens stand in front of the sequence; hidden positions hold [MASK].
 * - **latent-masking** (MaskGIT): training knows no conditions; sampling takes the tokens of the
 *   padded clip inside the condition for given.
 */

import type * as tf from "@tensorflow/tfjs-core";
import { type Before, tokenCount } from "../models/transformer.ts";
import { Random } from "../runtime/random.ts";
import { bool, type HostTensors, int32 } from "../runtime/tensors.ts";
import type { TaskConditions, TaskMixture, TokenSpace } from "./objective.ts";
import {
  conditionTokens,
  type TaskEntry,
  type TaskName,
  taskPrompts,
  usesClass,
  usesPixels,
  variantOf,
} from "./tasks.ts";

export const conditionings = ["commit", "prefix", "latent-masking"] as const;
export type Conditioning = (typeof conditionings)[number];

/** What a position is to the loss of COMMIT (Yu et al. 2023, eq. 5). */
export const parts = { reconstruct: 0, mask: 1, refine: 2 } as const;

/** The tasks of an objective, laid out on its tokens. */
export interface Conditions extends TaskMixture {
  readonly names: readonly TaskName[];
  readonly conditioning: Conditioning;
  /** Per task: which tokens hold a condition, [N]. */
  readonly inside: readonly Uint8Array[];
  /** Per task: the places of those tokens in order. */
  readonly places: readonly Int32Array[];
  /** Per task: its prompt, and the number of prompts; 0 where the network is told none. */
  readonly prompts: Int32Array;
  readonly promptCount: number;
}

/**
 * Lay a mixture out.
 * @throws RangeError when the space does not know its clips
 */
export function buildConditions(
  entries: readonly TaskEntry[],
  conditioning: Conditioning,
  options: {
    readonly conditionFrames: number;
    readonly prompts: "each" | "magvit";
    readonly stream: string;
  },
  space: TokenSpace,
): Conditions {
  if (space.clip === undefined) {
    throw new RangeError("conditional tasks need to know the clips behind the tokens");
  }
  const { conditionFrames } = options;
  const layout = { clip: space.clip, grid: space.grid, conditionFrames };
  const names = entries.map(({ task }) => task);
  const inside = names.map((task) =>
    usesPixels(task) ? conditionTokens(task, layout) : new Uint8Array(tokenCount(space)),
  );
  const total = entries.reduce((sum, { weight }) => sum + weight, 0);
  const one = (random: Random): number => {
    let level = random.uniform() * total;
    const chosen = entries.findIndex(({ weight }) => (level -= weight) < 0);
    return chosen < 0 ? entries.length - 1 : chosen;
  };
  const { prompts, count } = taskPrompts(names, options.prompts);
  return {
    names,
    variants: names.map(variantOf),
    conditionFrames,
    conditioning,
    inside,
    places: inside.map((flags) => Int32Array.from([...flags.keys()].filter((n) => flags[n]))),
    prompts,
    // A network that is told nothing of conditions is not told of tasks either.
    promptCount: conditioning === "latent-masking" ? 0 : count,
    draw(size, seed, step, training) {
      const random = new Random(seed, `${options.stream}/${training ? "train" : "held"}`, step);
      // A prefix has one length in a batch, so the batch has one task.
      const shared = conditioning === "prefix" ? one(random) : undefined;
      return Int32Array.from({ length: size }, () => shared ?? one(random));
    },
  };
}

/** The labels that samples of these tasks are told: -1, none, for tasks without a class. */
export function taskLabels(
  labels: Int32Array,
  tasks: Int32Array,
  names: readonly TaskName[],
): Int32Array {
  return labels.map((label, i) => (usesClass(names[tasks[i]!]!) ? label : -1));
}

/** The prompt and the prefix of a batch, as the transformer takes them. */
export function beforeOf(inputs: { readonly [name: string]: tf.Tensor }): Before {
  const { prompts, prefix, places, prefix_hidden: hidden } = inputs;
  return {
    ...(prompts && { prompts: prompts as tf.Tensor1D }),
    ...(prefix && {
      prefix: {
        ids: prefix as tf.Tensor3D,
        places: places as tf.Tensor1D,
        hidden: hidden as tf.Tensor1D,
      },
    }),
  };
}

/**
 * Prompts and prefix of a batch, as host tensors.
 * @param hidden which samples' condition the network is not to see
 */
export function beforeInputs(
  conditions: Conditions,
  given: TaskConditions,
  space: TokenSpace,
  hidden: (sample: number) => boolean,
): HostTensors {
  const size = given.tasks.length;
  const tokens = tokenCount(space);
  const factors = space.factors.length;
  if (conditions.conditioning === "latent-masking") {
    return {};
  }
  const prompts = int32(
    [size],
    given.tasks.map((task) => conditions.prompts[task]!),
  );
  const task = given.tasks[0]!;
  const places = conditions.places[task]!;
  if (conditions.conditioning !== "prefix" || places.length === 0) {
    return { prompts };
  }
  if (given.tasks.some((other) => other !== task)) {
    throw new RangeError("with prefix conditioning the samples of a batch share one task");
  }
  const prefix = new Int32Array(size * places.length * factors);
  for (let b = 0; b < size; b++) {
    for (const [p, place] of places.entries()) {
      const from = (b * tokens + place) * factors;
      prefix.set(given.ids.subarray(from, from + factors), (b * places.length + p) * factors);
    }
  }
  return {
    prompts,
    prefix: int32([size, places.length, factors], prefix),
    places: int32([places.length], places),
    prefix_hidden: bool(
      [size],
      Array.from({ length: size }, (_, b) => hidden(b)),
    ),
  };
}
