/**
 * @file What `npm run bench:gpu` measures: the stages' own compiled training steps and the objectives' own
 * samplers at sizes for one GPU, on random clips and tokens (no data set is opened).
 */

import { fileURLToPath } from "node:url";
import { loadConfig } from "../src/config/resolve.ts";
import { Scope } from "../src/models/scope.ts";
import { buildTransformer } from "../src/models/transformer.ts";
import type { TokenSpace } from "../src/objectives/objective.ts";
import { buildObjective } from "../src/objectives/registry.ts";
import type { Device } from "../src/runtime/device.ts";
import { Random } from "../src/runtime/random.ts";
import { float32, type HostTensors, uint8 } from "../src/runtime/tensors.ts";
import { checks, type Experiment, experimentSchema } from "../src/trainers/experiment.ts";
import { makeTokenizer } from "../src/trainers/networks.ts";
import { setVariable } from "../src/trainers/packing.ts";
import type { Task } from "../src/trainers/step.ts";
import { toPixels } from "../src/trainers/tokenizer-stage.ts";
import { bareTask, plainParts, samplerOf, trainingSteps } from "./stages.ts";

export interface GpuWorkload {
  readonly title: string;
  /** The twin's kind, see twins/gpu.py. */
  readonly twin: "tokenizer" | "transformer" | "decode";
  /** Config values that differ from the experiment file's. */
  readonly experiment: "gpu-tokenizer" | "gpu-transformer";
  readonly overrides: readonly string[];
  readonly batch: number;
}

const causal = ["objective=@causal"];

export const gpuWorkloads: { readonly [name: string]: GpuWorkload } = {
  W1a: {
    title: "train step of MAGVIT-v2's causal 3D CNN, 56 M parameters, 8 clips of 17×128×128",
    twin: "tokenizer",
    experiment: "gpu-tokenizer",
    overrides: [],
    batch: 8,
  },
  W1b: {
    title: "the same with twice the channels, 225 M parameters, 4 clips",
    twin: "tokenizer",
    experiment: "gpu-tokenizer",
    overrides: ["tokenizer.base_channels=128", "trainer.tokenizer.batch=4"],
    batch: 4,
  },
  W2a: {
    title: "train step of the masked transformer, 305 M parameters, 32 sequences of 1024 tokens",
    twin: "transformer",
    experiment: "gpu-transformer",
    overrides: [],
    batch: 32,
  },
  W2b: {
    title: "the same, causal",
    twin: "transformer",
    experiment: "gpu-transformer",
    overrides: causal,
    batch: 32,
  },
  W3: {
    title: "1024 tokens of one sequence in 12 parallel steps",
    twin: "decode",
    experiment: "gpu-transformer",
    overrides: [],
    batch: 1,
  },
  "W3-32": {
    title: "1024 tokens of 32 sequences in 12 parallel steps",
    twin: "decode",
    experiment: "gpu-transformer",
    overrides: [],
    batch: 32,
  },
  W4: {
    title: "1024 tokens of one sequence, token after token with a key-value cache",
    twin: "decode",
    experiment: "gpu-transformer",
    overrides: causal,
    batch: 1,
  },
  "W4-32": {
    title: "1024 tokens of 32 sequences, token after token",
    twin: "decode",
    experiment: "gpu-transformer",
    overrides: causal,
    batch: 32,
  },
};

export const CLASSES = 8;

export function configOf({ experiment, overrides }: GpuWorkload): Experiment {
  return loadConfig<Experiment>({
    file: fileURLToPath(new URL(`experiments/${experiment}.yaml`, import.meta.url)),
    overrides,
    schema: experimentSchema,
    checks,
  }).config;
}

/** A workload on a device: one repetition, and how many parameters it has. */
export interface Opened {
  readonly parameters: number;
  readonly config: Experiment;
  readonly space: TokenSpace;
  run(): Promise<{ readonly [metric: string]: number }>;
  close(): void;
}

export async function openGpuWorkload(workload: GpuWorkload, device: Device): Promise<Opened> {
  const config = configOf(workload);
  return workload.twin === "tokenizer"
    ? openTokenizer(config, device, workload.batch)
    : openTransformer(config, device, workload);
}

/** Smooth moving patterns: learnable, unlike noise. */
export function clipsAt(
  step: number,
  shape: readonly [number, number, number, number],
): Uint8Array {
  const [batch, frames, height, width] = shape;
  const random = new Random(1, "bench/clips", step);
  const values = new Uint8Array(batch * frames * height * width * 3);
  let at = 0;
  for (let b = 0; b < batch; b++) {
    const [fx, fy, ft, phase] = random.uniforms(4);
    for (let t = 0; t < frames; t++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const wave = Math.sin(fx! * 0.3 * x + fy! * 0.3 * y + ft! * t + phase! * 6);
          values[at++] = 127 + 120 * wave;
          values[at++] = 127 + 60 * wave;
          values[at++] = 40 + 30 * wave;
        }
      }
    }
  }
  return values;
}

/** Uniform values of standard deviation 0.02 in every parameter of rank 2 and more, ones in norm scales. */
function scatter(scope: Scope): void {
  let state = 1;
  for (const [name, variable] of scope.trainable()) {
    const values = new Float32Array(variable.size);
    if (variable.rank >= 2) {
      for (let i = 0; i < values.length; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        values[i] = (state / 2 ** 31 - 1) * 0.035;
      }
    } else if (name.endsWith("scale")) {
      values.fill(1);
    }
    setVariable(variable, values);
  }
}

async function training(
  config: Experiment,
  space: TokenSpace,
  device: Device,
  task: Task,
): Promise<Opened> {
  const parameters = task.scope.parameterCount();
  return { config, space, parameters, ...(await trainingSteps(device, task)) };
}

/** @param fresh another batch at every step, for loss curves */
export async function openTokenizer(
  config: Experiment,
  device: Device,
  batch: number,
  fresh = false,
): Promise<Opened> {
  const tokenizer = makeTokenizer(config);
  const { frames, height, width } = tokenizer.clip;
  const shape = [batch, frames, height, width] as const;
  const first = clipsAt(0, shape);
  const task = bareTask(
    {
      stage: "tokenizer",
      scope: tokenizer.scope,
      options: config.trainer.tokenizer,
      loss(inputs, train) {
        const pixels = toPixels(inputs["clips"]!);
        const { loss, metrics } = tokenizer.loss(pixels, inputs["step"] as never, train);
        return { loss, metrics };
      },
    },
    (step) => ({
      clips: uint8([...shape, 3], fresh ? clipsAt(step, shape) : first),
      step: float32([], [fresh ? step : 0]),
    }),
  );
  const space = { grid: tokenizer.grid, factors: tokenizer.factors, classes: 0 };
  return training(config, space, device, task);
}

export async function openTransformer(
  config: Experiment,
  device: Device,
  { twin, batch }: Pick<GpuWorkload, "twin" | "batch">,
  fresh = false,
): Promise<Opened> {
  const tokenizer = makeTokenizer(config);
  const { grid, factors } = tokenizer;
  tokenizer.scope.dispose();
  const space: TokenSpace = { grid, factors, classes: CLASSES };
  // Small random weights made faster than by the networks' own initializers: times do not depend on them.
  const scope = (fresh ? Scope.root(config.seed) : Scope.blank(config.seed)).child("transformer");
  const tokens = grid[0] * grid[1] * grid[2];
  const labels = Int32Array.from({ length: batch }, (_, b) => b % CLASSES);
  if (twin === "decode") {
    const { objective, model, mask } = plainParts(config);
    const transformer = buildTransformer(model, space, { mask }, scope);
    const sample = samplerOf(device, transformer, objective);
    let seed = 0;
    scatter(scope);
    return {
      config,
      space,
      parameters: scope.parameterCount(),
      async run() {
        seed += 1;
        const ids = await sample({ labels, seed });
        return { first: ids[0]! };
      },
      close: () => scope.dispose(),
    };
  }
  const objective = buildObjective(config.objective!, config.model!, space, scope);
  if (!fresh) {
    scatter(scope);
  }
  /** Sequences with structure: each token follows from the one before, but for some noise. */
  const inputsAt = (step: number): HostTensors => {
    const random = new Random(2, "bench/tokens", step);
    const ids = new Int32Array(batch * tokens);
    for (let b = 0; b < batch; b++) {
      let token = random.int(factors[0]!);
      const stride = 1 + random.int(7);
      for (let n = 0; n < tokens; n++) {
        ids[b * tokens + n] = token;
        token = random.int(10) === 0 ? random.int(factors[0]!) : (token + stride) % factors[0]!;
      }
    }
    return objective.inputs({ ids, labels, size: batch }, config.seed, step, true);
  };
  const first = inputsAt(0);
  const task = bareTask(
    {
      stage: "transformer",
      scope,
      options: config.trainer.transformer,
      loss: (values) => objective.loss(values),
    },
    (step) => (fresh ? inputsAt(step) : first),
  );
  return training(config, space, device, task);
}
