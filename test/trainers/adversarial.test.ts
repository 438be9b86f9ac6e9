/** @file Adversarial and perceptual training, joint training on images, starts from a checkpoint, collapse. */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { Ajv } from "ajv";
import { beforeAll, describe, expect, it } from "vitest";
import type { Dataset } from "../../src/data/dataset.ts";
import { discriminator } from "../../src/models/discriminator.ts";
import { Scope } from "../../src/models/scope.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { decodeSafetensors, encodeSafetensors } from "../../src/runtime/safetensors.ts";
import { float32 } from "../../src/runtime/tensors.ts";
import {
  adversarialSchema,
  buildAdversary,
  criticLoss,
  generatorLoss,
  r1,
} from "../../src/tokenizers/adversarial.ts";
import { buildPerceptual, perceptualSchema } from "../../src/tokenizers/perceptual.ts";
import {
  buildTokenizer,
  checkTokenizer,
  type TokenizerConfig,
  tokenizerSchema,
} from "../../src/tokenizers/registry.ts";
import { readMetrics } from "../../src/trainers/logging/metrics.ts";
import { checkpointDir, trainStage } from "../../src/trainers/loop.ts";
import { Interrupted } from "../../src/trainers/signals.ts";
import { findCollapse, isImageStep, tokenizerTask } from "../../src/trainers/tokenizer-stage.ts";
import { shapes } from "../eval/fakes.ts";
import { clips, worstError } from "../tokenizers/helpers.ts";
import { stageOptions, temporaryFolder, tinyRun } from "./support.ts";

const ajv = new Ajv({ strict: false, discriminator: true, useDefaults: true });
function full<T>(schema: object, config: object): T {
  const copy = structuredClone(config);
  const validate = ajv.compile(schema);
  if (!validate(copy)) {
    throw new Error(JSON.stringify(validate.errors));
  }
  return copy as T;
}
const game = (changes: object) =>
  full<Parameters<typeof buildAdversary>[0]>(adversarialSchema, {
    base_channels: 2,
    channel_multipliers: [1, 2],
    ...changes,
  });
const value = (x: tf.Tensor | undefined): number => x!.dataSync()[0]!;
const clip = { frames: 3, height: 8, width: 8 };
const step = (n: number) => tf.scalar(n);

beforeAll(async () => void (await openDevice({ type: "reference" })));

describe("losses", () => {
  it("hinge and non-saturating, as the papers write them", () => {
    const real = tf.tensor1d([2, 0.5, -1]);
    const made = tf.tensor1d([-2, 0.25, 1]);
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    const [r, m] = [
      [2, 0.5, -1],
      [-2, 0.25, 1],
    ] as const;
    const hinge = mean(r.map((x) => Math.max(0, 1 - x))) + mean(m.map((x) => Math.max(0, 1 + x)));
    expect(value(criticLoss("hinge", real, made))).toBeCloseTo(hinge / 2, 6);
    expect(value(generatorLoss("hinge", made))).toBeCloseTo(-mean([...m]), 6);
    const softplus = (x: number) => Math.log1p(Math.exp(x));
    const expected = mean(r.map((x) => softplus(-x))) + mean(m.map(softplus));
    expect(value(criticLoss("non-saturating", real, made))).toBeCloseTo(expected, 6);
    expect(value(generatorLoss("non-saturating", made))).toBeCloseTo(
      mean(m.map((x) => softplus(-x))),
      6,
    );
  });

  it("R1: the penalty's value, and its gradient in the parameters by finite differences", () => {
    const weights = tf.variable(
      tf.tensor2d(
        Float32Array.from({ length: 48 }, (_, i) => Math.sin(3 * i)),
        [12, 4],
      ),
    );
    const critic = (x: tf.Tensor5D): tf.Tensor1D =>
      tf.sum(tf.softplus(tf.matMul(tf.reshape(x, [-1, 12]), weights as tf.Tensor2D)), 1);
    const x = clips([3, 1, 2, 2, 3]);
    // |∇_x D|² in closed form: ∇_x D = W σ(Wᵀx).
    const penalty = (w: tf.Tensor2D): tf.Scalar => {
      const rows = tf.reshape(x, [3, 12]) as tf.Tensor2D;
      const slope = tf.matMul(tf.sigmoid(tf.matMul(rows, w)), w, false, true); // [3, 12]
      return tf.mean(tf.sum(tf.square(slope), 1));
    };
    expect(value(r1(critic, x).penalty)).toBeCloseTo(value(penalty(weights as tf.Tensor2D)), 4);
    const { grads } = tf.variableGrads(() => r1(critic, x).loss, [weights]);
    const exact = tf.grad((w) => tf.mul(penalty(w as tf.Tensor2D), 0.5))(weights);
    const scale = Math.max(...exact.dataSync().map(Math.abs));
    expect(worstError(grads[weights.name]!, exact.dataSync()) / scale).toBeLessThan(5e-3);
  });

  it("LeCAM: anchors are moving averages of the logits, kept as state", () => {
    const config = game({ lecam_weight: 1, lecam_decay: 0.5, r1_weight: 0 });
    const adversary = buildAdversary(config, clip, 1);
    const [x, y] = [clips([2, 3, 8, 8, 3], 1), clips([2, 3, 8, 8, 3], 2)];
    const state = adversary.scope.states().get("discriminator/lecam")!;
    state.assign(tf.tensor1d([3, -3]));
    const { metrics } = adversary.critic(x, y, step(0), true);
    const [r, m] = [value(metrics["critic_real"]), value(metrics["critic_made"])];
    expect(state.dataSync()[0]).toBeCloseTo(0.5 * 3 + 0.5 * r, 5);
    expect(state.dataSync()[1]).toBeCloseTo(0.5 * -3 + 0.5 * m, 5);
    // With one clip the means are the logits themselves.
    state.assign(tf.tensor1d([3, -3]));
    const one = adversary.critic(tf.slice(x, 0, [1]), tf.slice(y, 0, [1]), step(0), false).metrics;
    const expected =
      Math.max(0, value(one["critic_real"]) + 3) ** 2 +
      Math.max(0, 3 - value(one["critic_made"])) ** 2;
    expect(value(one["lecam"])).toBeCloseTo(expected, 4);
  });

  it("before the start both networks get exactly nothing, and averages rest", () => {
    const adversary = buildAdversary(game({ start: 10 }), clip, 1);
    const [x, y] = [clips([2, 3, 8, 8, 3], 1), clips([2, 3, 8, 8, 3], 2)];
    const rest = () => tf.scalar(0);
    const slopes = (n: number) => {
      const made = tf.grad((z) => adversary.generator(z as tf.Tensor5D, step(n), rest, x).loss)(y);
      const parameters = [...adversary.scope.trainable().values()];
      const { grads } = tf.variableGrads(
        () => adversary.critic(x, y, step(n), true).loss,
        parameters,
      );
      const all = [made, ...Object.values(grads)].map((g) => value(tf.sum(tf.abs(g))));
      return all.reduce((a, b) => a + b, 0);
    };
    expect(slopes(9)).toBe(0);
    expect(
      [...adversary.scope.states().values()].every((v) => value(tf.sum(tf.abs(v))) === 0),
    ).toBe(true);
    expect(slopes(10)).toBeGreaterThan(0);
  });

  it("the adaptive weight makes the two gradients at the reconstruction equally long", () => {
    const adversary = buildAdversary(game({ adaptive: true, weight: 1 }), clip, 1);
    const [x, y] = [clips([2, 3, 8, 8, 3], 1), clips([2, 3, 8, 8, 3], 2)];
    const rest = (z: tf.Tensor5D): tf.Scalar => tf.mean(tf.squaredDifference(z, x));
    const length = (f: (z: tf.Tensor5D) => tf.Scalar) =>
      Math.sqrt(value(tf.sum(tf.square(tf.grad((z) => f(z as tf.Tensor5D))(y)))));
    const ours = length((z) => adversary.generator(z, step(0), rest, x).loss);
    expect(ours).toBeCloseTo(length(rest), 4);
  });

  it("the discriminator takes clips of any length, and frame by frame gives their mean", () => {
    const options = {
      dims: 2,
      base_channels: 2,
      channel_multipliers: [1, 2],
      blur_taps: 4,
    } as const;
    const flat = discriminator(Scope.root(1), options, [8, 8]);
    const deep = discriminator(Scope.root(1), { ...options, dims: 3, blur_taps: 2 }, [8, 8]);
    for (const frames of [1, 2, 5]) {
      expect(flat(clips([2, frames, 8, 8, 3])).shape).toEqual([2]);
      expect(deep(clips([2, frames, 8, 8, 3])).shape).toEqual([2]);
    }
    const still = tf.tile(clips([2, 1, 8, 8, 3]), [1, 4, 1, 1, 1]) as tf.Tensor5D;
    expect(worstError(flat(still), flat(clips([2, 1, 8, 8, 3])).dataSync())).toBeLessThan(1e-5);
  });

  it.each(["features", "logits"])(
    "perceptual on own weights (%s): zero for equals, grows with distance",
    (compare) => {
      const distance = buildPerceptual(full(perceptualSchema, { compare }));
      const x = tf.mul(clips([1, 3, 16, 16, 3], 1), 0.5) as tf.Tensor5D;
      const noise = clips([1, 3, 16, 16, 3], 2);
      const at = (amount: number) => value(distance(tf.add(x, tf.mul(noise, amount)), x));
      expect(at(0)).toBeLessThan(1e-9);
      expect(at(0.5)).toBeGreaterThan(at(0.1));
      expect(at(0.1)).toBeGreaterThan(0);
      const slope = tf.grad((z) => distance(z as tf.Tensor5D, x))(tf.add(x, noise));
      expect(value(tf.max(tf.abs(slope)))).toBeGreaterThan(0);
    },
  );
});

describe("a tokenizer stage", () => {
  const base = {
    type: "magvit2",
    base_channels: 4,
    channel_multipliers: [1],
    spatial_strides: [],
    temporal_strides: [],
    patch_size: 4,
    temporal_patch_size: 2,
    blocks: 1,
    bottleneck_blocks: 0,
    norm_groups: 2,
    adaptive_norm: false,
    quantizer: { type: "rvq", size: 8, width: 4, levels: 2, dropout: 0.5, kmeans_steps: 3 },
  };
  const adversarial = { base_channels: 2, channel_multipliers: [1, 2], start: 2, adaptive: true };
  const options = {
    ...stageOptions,
    steps: 8,
    checkpoint_every: 3,
    validate_every: 4,
    log_every: 2,
    lr: 5e-3,
  };
  const data = (split: "train" | "validation") =>
    shapes(split, { frames: 3, height: 16, width: 16, size: 16, validation_size: 8 });

  async function stage(config: object, dir: string, changes: object = {}, stopAt?: number) {
    const run = await tinyRun(dir);
    const tokens = full<TokenizerConfig>(tokenizerSchema, config);
    const [train, held] = [await data("train"), await data("validation")];
    const tokenizer = buildTokenizer(
      tokens,
      { frames: 3, height: 16, width: 16 },
      Scope.root(2).child("tokenizer"),
    );
    const task = tokenizerTask(tokenizer, { ...options, ...changes }, train, held, 5, tokens);
    const batches = task.batches.bind(task);
    const stopping = {
      ...task,
      batches: (n: number) => {
        if (n === stopAt) {
          run.stop.request("SIGINT");
        }
        return batches(n);
      },
    };
    try {
      await trainStage(run, stopping);
    } finally {
      await closeAll([train, held]);
      run.device.dispose();
    }
    return { tokenizer, run };
  }
  const closeAll = (sets: Dataset[]) => Promise.all(sets.map((set) => set.close()));
  const bytes = (dir: string) => {
    const folder = checkpointDir(dir, "tokenizer");
    const last = readdirSync(folder)
      .filter((name) => name.endsWith(".safetensors"))
      .sort()
      .at(-1)!;
    return [
      last,
      readFileSync(join(folder, last)).toString("base64"),
      readFileSync(join(dir, "metrics.jsonl"), "utf8"),
    ];
  };

  it.each([
    ["one batch a step", 1],
    ["two micro-batches a step", 2],
  ])("against a discriminator, from images too, resumes to the byte: %s", async (_, accumulate) => {
    const perceptual = accumulate === 1 ? { perceptual: { weight: 0.1 } } : {};
    const config = { ...base, image_share: 0.4, adversarial, ...perceptual };
    const short = { accumulate, steps: 5, batch: 2, validate_every: 5, validate_batches: 1 };
    const whole = temporaryFolder();
    await stage(config, whole, short);
    const dir = temporaryFolder();
    await expect(stage(config, dir, short, 3)).rejects.toThrow(Interrupted);
    await stage(config, dir, short);
    expect(bytes(dir)).toEqual(bytes(whole));
    const last = readMetrics(join(dir, "metrics.jsonl"))
      .filter(({ split }) => split === "train")
      .at(-1)!;
    for (const name of ["adversarial", "critic_loss", "critic_grad_norm", "r1", "lecam", "usage"]) {
      expect(last[name]).toBeTypeOf("number");
    }
  });

  const latents = { width: 4 };
  it.each([
    { type: "vq", size: 8, ...latents, entropy_weight: 0.1 },
    { type: "vq", size: 8, ...latents, groups: 2, learn: "ema", kmeans_steps: 4 },
    { type: "vq", size: 8, ...latents, distance: "cosine", learn: "ema", restart_below: 0.5 },
    { type: "rvq", size: 8, ...latents, levels: 2, dropout: 0.5 },
    { type: "gumbel", size: 8, ...latents, temperature_steps: 4 },
    { type: "gumbel", size: 8, ...latents, logits: "distance", entropy_weight: 0.1 },
    { type: "ibq", size: 8, ...latents },
    { type: "lfq", bits: 4, entropy_anneal_factor: 3, entropy_anneal_steps: 4 },
    { type: "bsq", bits: 4 },
    { type: "fsq", levels: [4, 3] },
    { type: "spae", size: 8, ...latents, strides: [4, 2, 1], layer_dropout: 0.5 },
    { type: "none", ...latents, kl_weight: 0.1 },
  ])("the step after loading is that of the uninterrupted run: $type", async (quantizer) => {
    const config = { ...base, quantizer };
    const short = { steps: 4, batch: 2, checkpoint_every: 3, validate_every: 4, validate_batches: 1 }; // biome-ignore format: one object
    const [whole, dir] = [temporaryFolder(), temporaryFolder()];
    const { tokenizer } = await stage(config, whole, short);
    await expect(stage(config, dir, short, 3)).rejects.toThrow(Interrupted);
    const codes = (folder: string, at: string) =>
      decodeSafetensors(readFileSync(join(checkpointDir(folder, "tokenizer"), at))).tensors;
    const before = codes(dir, bytes(dir)[0]!);
    await stage(config, dir, short);
    expect(bytes(dir)).toEqual(bytes(whole));
    // A learned codebook did move in that step.
    const learned = [...tokenizer.scope.variables().keys()].filter((name) => /quantizer\/.*codebook$/.test(name)); // biome-ignore format: one call
    expect(learned.length > 0).toBe(["vq", "rvq", "gumbel", "ibq"].includes(quantizer.type));
    const after = codes(dir, bytes(dir)[0]!);
    for (const name of learned) {
      const key = [...after.keys()].find((one) => one.endsWith(name) && !one.startsWith("ema") && !one.startsWith("optimizer"))!; // biome-ignore format: one call
      expect(after.get(key)!.data).not.toEqual(before.get(key)!.data);
    }
  });

  it("starts from a checkpoint of an image tokenizer", async () => {
    const image = {
      ...base,
      type: "vqgan",
      temporal_strides: undefined,
      temporal_patch_size: undefined,
    };
    const source = temporaryFolder();
    const still = JSON.parse(JSON.stringify(image)) as object;
    await stage(still, source, { steps: 2 });
    const inflated = { ...base, init: { checkpoint: source, inflation: "causal" } };
    const missing = {
      ...inflated,
      init: { checkpoint: join(source, "nothing"), inflation: "causal" },
    };
    await expect(stage(missing, temporaryFolder(), { steps: 0 })).rejects.toThrow(/no checkpoint/);
    const dir = temporaryFolder();
    await stage(inflated, dir, { steps: 0 });
    expect(bytes(dir)[1]).not.toBe(bytes(source)[1]);
  });

  it("pulls a pyramid's first layers to words that fit, by a table in feature space", async () => {
    const file = join(temporaryFolder(), "words.safetensors");
    const imageSpace = new Float32Array(8 * 64).map((_, i) => Math.sin(i));
    const tensors = new Map([["image_space", float32([8, 64], imageSpace)]]);
    writeFileSync(file, encodeSafetensors({ tensors, metadata: {} }));
    const semantic = { file, layers: 1, weight: 0.3 };
    const quantizer = { type: "spae", size: 8, width: 4, strides: [4, 2, 1], semantic };
    const dir = temporaryFolder();
    await stage({ ...base, quantizer }, dir, { steps: 4 });
    const lines = readMetrics(join(dir, "metrics.jsonl"));
    expect(lines.every((line) => (line["semantic"] as number) > 0)).toBe(true);
    const bad = { ...quantizer, size: 9 };
    await expect(
      stage({ ...base, quantizer: bad }, temporaryFolder(), { steps: 1 }),
    ).rejects.toThrow(/image_space/);
  });

  it("reports a collapsed codebook with the remedy", async () => {
    expect(findCollapse(300, { usage: 0.02, perplexity: 1.1 }, "do this", 1000)).toMatchObject({
      event: "codebook-collapse",
      remedy: "do this",
    });
    expect(findCollapse(300, { usage: 0.5, perplexity: 9 }, "", 1000)).toBeUndefined();
    expect(findCollapse(10, { usage: 0, perplexity: 1 }, "", 1000)).toBeUndefined();
    // A codebook far from all latents but for one code, never restarted: everything falls to it.
    const quantizer = {
      type: "lfq",
      bits: 8,
      commitment_weight: 50,
      entropy_weight: 2,
      entropy_diversity: 0,
    };
    const dir = temporaryFolder();
    const { run } = await stage({ ...base, quantizer, l2_weight: 0 }, dir, {
      steps: 60,
      lr: 0.05,
      log_every: 10,
      checkpoint_every: 100,
      validate_every: 100,
    });
    const events = readFileSync(join(dir, "events.jsonl"), "utf8");
    expect(events).toContain('"event":"codebook-collapse"');
    expect(events).toContain("entropy_weight");
    expect(
      (run as { warnings: string[] }).warnings.some((text) => text.includes("collapsed")),
    ).toBe(true);
  });

  it("spreads image steps evenly, and asks for a tokenizer that takes images", () => {
    const steps = Array.from({ length: 10 }, (_, n) => isImageStep(n, 0.3));
    expect(steps.filter(Boolean)).toHaveLength(3);
    expect(Array.from({ length: 5 }, (_, n) => isImageStep(n, 0)).some(Boolean)).toBe(false);
    const still = {
      type: "magvit",
      temporal_strides: [2],
      spatial_strides: [2],
      channel_multipliers: [1, 1],
      quantizer: { type: "lfq" },
      image_share: 0.5,
    };
    const problems = checkTokenizer(full(tokenizerSchema, still), {
      frames: 4,
      height: 16,
      width: 16,
    });
    expect(problems.map(({ path }) => path)).toEqual(["image_share"]);
  });
});
