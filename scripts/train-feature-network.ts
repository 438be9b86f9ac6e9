/**
 * @file Trains the feature network `moving-shapes-v1` and writes its weights; run once, its output is
 * committed. The same command writes the same bytes on the same machine.
 *
 *   npx tsx scripts/train-feature-network.ts [--steps 2400] [--device cpu] [--out FILE]
 *
 * Clips come without end from moving-shapes at several lengths and sizes in turn, so that features
 * hold for any of them. The loss is the sum of the cross entropies of motion, shape and colour. The
 * accuracy that is printed, and written into the file, is on clips of the validation stream.
 */

import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import * as tf from "@tensorflow/tfjs-core";
import { Loader, type Batch } from "../src/data/loader.ts";
import { type MovingShapesConfig, open } from "../src/data/moving-shapes.ts";
import { colours, motionClasses, shapeNames, textureNames } from "../src/data/shapes/scene.ts";
import { type Head, heads, movingShapesNet } from "../src/models/features/moving-shapes-net.ts";
import { normalise } from "../src/eval/tokenize.ts";
import { Scope } from "../src/models/scope.ts";
import { writeFileAtomic } from "../src/runtime/files.ts";
import { softmaxCrossEntropy } from "../src/runtime/ops.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { encodeSafetensors } from "../src/runtime/safetensors.ts";
import { type HostTensors, int32, item, uint8 } from "../src/runtime/tensors.ts";
import { AdamW, type AdamWScalars, adamwScalars } from "../src/trainers/optimizers.ts";
import { getVariable } from "../src/trainers/packing.ts";
import { learningRate } from "../src/trainers/schedules.ts";

const { values: flags } = parseArgs({
  options: {
    steps: { type: "string", default: "2400" },
    device: { type: "string", default: "cpu" },
    out: { type: "string", default: "src/eval/weights/moving-shapes-v1.safetensors" },
  },
});
const steps = Number(flags.steps);
const batch = 16;
const seed = 20240501;

/** Lengths and sizes (T, H, W) in the order they are trained in; the first is judged in most detail. */
const sizes = [
  [17, 32, 32],
  [9, 32, 32],
  [12, 48, 48],
] as const;

type Size = readonly [frames: number, height: number, width: number];

const configOf = ([frames, height, width]: Size): MovingShapesConfig => ({
  type: "moving-shapes",
  frames,
  height,
  width,
  fps: 8,
  size: 12000,
  validation_size: 960,
  infinite: true,
  seed,
  motions: [...motionClasses],
  shapes: [...shapeNames],
  colours: Object.keys(colours) as (keyof typeof colours)[],
  textures: [...textureNames],
  sizes: ["small", "medium", "large"],
  speeds: ["slow", "medium", "fast"],
  occlusion: 0.3,
  stochastic: true,
  moving_background: true,
  audio_rate: 0,
  workers: 0,
});

/** The classes of each factor, in the order of the logits. */
const classNames: { readonly [head in Head]: readonly string[] } = {
  motion: motionClasses,
  shape: shapeNames,
  colour: Object.keys(colours),
};

function inputsOf(clips: Batch, shape: Size): HostTensors {
  const target = (head: Head): Int32Array =>
    Int32Array.from(clips.factors, (factors) => classNames[head].indexOf(String(factors![head])));
  return {
    clips: uint8([clips.size, ...shape, 3], clips.clips),
    motion: int32([clips.size], target("motion")),
    shape: int32([clips.size], target("shape")),
    colour: int32([clips.size], target("colour")),
  };
}

const device = await openDevice(
  flags.device === "reference" ? { type: "reference" } : { type: "cpu" },
);
const scope = Scope.root(seed);
const net = movingShapesNet(scope);
const parameters = scope.trainable();
const options = { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.01, clip_norm: 1 };
const optimizer = new AdamW(parameters, options, 1);
const headNames = Object.keys(heads) as Head[];

const step = device.compile("train", (inputs) => {
  const { adamw_rate: rate, adamw_epsilon: epsilon, adamw_keep: keep } = inputs;
  const { value, grads } = tf.variableGrads(() => {
    const logits = net.logits(net.features(normalise(inputs["clips"]!)));
    const losses = headNames.map((head) =>
      tf.mean(softmaxCrossEntropy(logits[head], inputs[head] as tf.Tensor1D)),
    );
    return losses.reduce((sum, loss) => tf.add(sum, loss)) as tf.Scalar;
  }, [...parameters.values()]);
  // variableGrads names gradients by the variables' own names; the optimizer knows them by path.
  const byPath = Object.fromEntries(
    [...parameters].map(([path, variable]) => [path, grads[variable.name] ?? null]),
  );
  optimizer.update({ rate, epsilon, keep } as AdamWScalars, byPath);
  return { loss: value };
});

const judge = device.compile("judge", (inputs) => {
  const logits = net.logits(net.features(normalise(inputs["clips"]!)));
  return Object.fromEntries(
    headNames.map((head) => [
      head,
      tf.sum(tf.cast(tf.equal(tf.argMax(logits[head], 1), inputs[head]!), "float32")),
    ]),
  );
});

/** Share of right answers of each head on validation clips of one size. */
async function accuracy(shape: Size): Promise<{ [head: string]: number }> {
  const dataset = await open(configOf(shape), "validation", seed);
  const right: { [head: string]: number } = Object.fromEntries(headNames.map((head) => [head, 0]));
  const loader = new Loader(dataset, { batch, seed });
  const batches = dataset.size / batch;
  for (let i = 0; i < batches; i++) {
    const counts = await judge(inputsOf(await loader.next(), shape));
    for (const head of headNames) {
      right[head]! += item(counts[head]) / dataset.size;
    }
  }
  return right;
}

const loaders = await Promise.all(
  sizes.map(
    async (shape) => new Loader(await open(configOf(shape), "train", seed), { batch, seed }),
  ),
);
const schedule = {
  lr: 4e-3,
  final_lr_ratio: 0.01,
  schedule: "cosine",
  warmup: 100,
  steps,
} as const;
const started = Date.now();
let running = 0;
for (let i = 0; i < steps; i++) {
  const size = i % sizes.length;
  const inputs = inputsOf(await loaders[size]!.next(), sizes[size]!);
  const scalars = adamwScalars(options, learningRate(schedule, i), i);
  const { loss } = await step({ ...inputs, ...scalars });
  running += item(loss) / 100;
  if ((i + 1) % 100 === 0) {
    const seconds = (Date.now() - started) / 1000;
    console.log(`step ${i + 1}  loss ${running.toFixed(3)}  ${seconds.toFixed(0)} s`);
    running = 0;
  }
}

const metadata: { [key: string]: string } = { network: "moving-shapes-v1", steps: String(steps) };
for (const shape of sizes) {
  const measured = await accuracy(shape);
  const text = headNames
    .map((head) => `${head} ${(100 * measured[head]!).toFixed(1)} %`)
    .join(", ");
  metadata[`accuracy ${shape.join("x")}`] = text;
  console.log(`${shape.join(" x ")}: ${text}`);
}

const tensors = new Map(
  await Promise.all(
    [...parameters].map(async ([name, variable]) => {
      const data = await getVariable(variable);
      return [name, { dtype: "float32", shape: variable.shape, data }] as const;
    }),
  ),
);
const file = encodeSafetensors({ tensors, metadata });
writeFileAtomic(flags.out, file);
console.log(
  `${flags.out}: ${file.length} bytes, sha256 ${createHash("sha256").update(file).digest("hex")}`,
);
device.dispose();
