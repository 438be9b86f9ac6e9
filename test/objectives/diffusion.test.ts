import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import {
  buildDiffusionTransformer,
  type DiffusionTransformerConfig,
  TIME_FEATURES,
  timeFeatures,
} from "../../src/models/diffusion-transformer.ts";
import { Scope } from "../../src/models/scope.ts";
import { fromWindows, toWindows, windowOn } from "../../src/models/windows.ts";
import {
  buildDiffusionSampler,
  type DiffusionNetwork,
} from "../../src/objectives/diffusion-sampler.ts";
import {
  buildDiffusion,
  checkDiffusion,
  type DiffusionConfig,
  givenLatents,
} from "../../src/objectives/diffusion.ts";
import {
  ddimStep,
  noiseSchedule,
  samplerSteps,
  signalOf,
} from "../../src/models/noise-schedule.ts";
import type { TokenBatch } from "../../src/objectives/objective.ts";
import type { Device } from "../../src/runtime/device.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { latentStatistics } from "../../src/trainers/tokens.ts";
import { shake, toTensors } from "./support.ts";

const clip = { frames: 9, height: 16, width: 16, causal: true };
const grid = [3, 4, 4] as const;
const space = { grid, factors: [1], classes: 3, latentWidth: 2, clip } as const;
const length = 3 * 4 * 4 * 2;

const model: DiffusionTransformerConfig = {
  type: "diffusion-transformer",
  width: 8,
  depth: 2,
  heads: 2,
  mlp_ratio: 2,
  positions: "factorised",
  spatial_window: [1, 2, 4],
  temporal_window: [0, 2, 2],
  lora_rank: 2,
  qk_norm: true,
};
const config: DiffusionConfig = {
  type: "diffusion",
  noise_schedule: "linear",
  noise_steps: 1000,
  zero_terminal_snr: true,
  image_share: 0,
  self_conditioning: 0.5,
  label_dropout: 0.3,
  tasks: [
    { task: "CG", weight: 1 },
    { task: "FP", weight: 1 },
    { task: "CFP", weight: 1 },
  ],
  condition_frames: 5,
  sampling: { steps: 4, guidance: 2, guidance_schedule: "constant", guidance_power: 4 },
};

const build = (changes: Partial<DiffusionConfig> = {}) => {
  const objective = buildDiffusion({ ...config, ...changes }, model, space, Scope.root(5));
  shake(objective.scope);
  objective.mean.assign(tf.tensor1d([0.4, -2]));
  objective.deviation.assign(tf.tensor1d([1.5, 0.7]));
  return objective;
};
const batchOf = (size: number, tasks?: readonly number[]): TokenBatch => ({
  ids: new Int32Array((size * length) / 2),
  labels: Int32Array.from({ length: size }, (_, i) => i % 3),
  codes: new Random(1, "codes").normals(size * length),
  size,
  ...(tasks && { conditions: { tasks: Int32Array.from(tasks), ids: new Int32Array() } }),
});

let device: Device;
beforeAll(async () => {
  device = await openDevice({ type: "reference" });
});

describe("noise schedules", () => {
  test.each(["linear", "cosine"] as const)("%s ends in pure noise and falls", (name) => {
    const { alpha, sigma } = noiseSchedule(name, 1000);
    expect(alpha[999]).toBe(0);
    expect(sigma[999]).toBe(1);
    for (let t = 0; t < 1000; t++) {
      expect(alpha[t]! ** 2 + sigma[t]! ** 2).toBeCloseTo(1, 12);
      expect(t === 0 || alpha[t]! < alpha[t - 1]!).toBe(true);
    }
    expect(alpha[0]).toBeGreaterThan(0.999);
  });

  test("linear keeps DDPM's first step, and the rescaling is affine in sqrt(alpha bar)", () => {
    const { alpha } = noiseSchedule("linear", 1000);
    expect(alpha[0]).toBeCloseTo(Math.sqrt(1 - 1e-4), 10);
    const root = (t: number) => {
      let product = 1;
      for (let i = 0; i <= t; i++) {
        product *= 1 - (1e-4 + ((0.02 - 1e-4) * i) / 999);
      }
      return Math.sqrt(product);
    };
    const expected = ((root(500) - root(999)) * root(0)) / (root(0) - root(999));
    expect(alpha[500]).toBeCloseTo(expected, 10);
  });

  test("sampler steps begin at the noise and are distinct", () => {
    expect(samplerSteps(1000, 4)).toEqual([999, 749, 499, 249]);
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 1000 }),
        fc.double({ min: 0, max: 1 }),
        (steps, share) => {
          const count = 1 + Math.floor(share * (steps - 1));
          const all = samplerSteps(steps, Number.isNaN(count) ? 1 : count);
          expect(all[0]).toBe(steps - 1);
          expect(all.at(-1)).toBeGreaterThanOrEqual(0);
          expect(new Set(all).size).toBe(all.length);
        },
      ),
    );
  });
});

test("without zero terminal SNR the last step keeps DDPM's rest of the signal", () => {
  const { alpha } = noiseSchedule("linear", 1000, false);
  // The product of (1 - beta) over DDPM's schedule is 4.04e-5 (Ho et al. 2020; Lin et al. 2024, table 1).
  expect(alpha[999]! ** 2).toBeCloseTo(4.04e-5, 7);
  expect(alpha[0]).toBeCloseTo(Math.sqrt(1 - 1e-4), 12);
});

test("an image is predicted from its own frame alone, and nothing behind it counts", () => {
  const objective = build({ image_share: 1, self_conditioning: 0, tasks: [] });
  const batch = batchOf(2);
  const loss = (codes: Float32Array): number => {
    const inputs = toTensors(objective.inputs({ ...batch, codes }, 0, 3, true));
    return objective.loss(inputs).loss.dataSync()[0]!;
  };
  const later = batch.codes!.map((v, i) => (i % length >= length / 3 ? v + 5 : v));
  const first = batch.codes!.map((v, i) => (i % length === 0 ? v + 5 : v));
  expect(loss(later)).toBe(loss(batch.codes!));
  expect(loss(first)).not.toBe(loss(batch.codes!));
});

test("v gives back signal and noise at every step", () => {
  const { alpha, sigma } = noiseSchedule("linear", 50);
  const x = tf.tensor5d([0.3, -1.2], [1, 1, 1, 1, 2]);
  const noise = tf.tensor5d([1.5, 0.2], [1, 1, 1, 1, 2]);
  for (const t of [0, 25, 49]) {
    const [a, s] = [tf.scalar(alpha[t]!), tf.scalar(sigma[t]!)];
    const z: tf.Tensor5D = tf.add(tf.mul(a, x), tf.mul(s, noise));
    const v: tf.Tensor5D = tf.sub(tf.mul(a, noise), tf.mul(s, x));
    const close = (got: tf.Tensor, want: tf.Tensor) =>
      expect(Math.max(...tf.abs(tf.sub(got, want)).dataSync())).toBeLessThan(1e-6);
    close(signalOf(z, v, a, s), x);
    // A step to pure noise leaves the noise alone.
    const to = { alpha: a, sigma: s, nextAlpha: tf.scalar(0), nextSigma: tf.scalar(1) };
    close(ddimStep(z, v, x, to), noise);
  }
});

describe("windows", () => {
  test("partition and merge are inverse, each position once", () => {
    const side = fc.constantFrom(1, 2, 3);
    fc.assert(
      fc.property(fc.array(side, { minLength: 6, maxLength: 6 }), (sides) => {
        const window = sides.slice(0, 3) as [number, number, number];
        const whole = window.map((s, i) => s * sides[3 + i]!) as [number, number, number];
        const count = 2 * whole[0] * whole[1] * whole[2] * 2;
        const x = tf.tensor5d(
          Float32Array.from({ length: count }, (_, i) => i),
          [2, ...whole, 2],
        );
        const windows = toWindows(x, window);
        expect(windows.shape[1]).toBe(window[0] * window[1] * window[2]);
        expect([...fromWindows(windows, whole, window).dataSync()]).toEqual([...x.dataSync()]);
      }),
      { numRuns: 30 },
    );
  });

  test("hold neighbours, in the order frames, rows, columns", () => {
    const x = tf.tensor5d(
      Float32Array.from({ length: 16 }, (_, i) => i),
      [1, 2, 2, 4, 1],
    );
    const windows = toWindows(x, [2, 1, 2]); // of frames 0 and 1, one row, two columns
    expect(Array.from(windows.dataSync().subarray(0, 4))).toEqual([0, 1, 8, 9]);
    expect(windowOn([3, 4, 5], [0, 8, 1])).toEqual([3, 4, 1]);
  });

  test("attention stays inside them", () => {
    const windowed = { ...model, depth: 1, spatial_window: [1, 2, 2] };
    const scope = Scope.root(1);
    const latents = { grid, width: 2, classes: 0 };
    const network = buildDiffusionTransformer(windowed, latents, 2, scope);
    shake(scope);
    const values = new Random(6, "x").normals(length);
    const time = tf.tensor2d(timeFeatures([300]), [1, TIME_FEATURES]);
    const run = () =>
      network
        .predict(tf.tensor5d(values, [1, ...grid, 2]), time, tf.tensor1d([0], "int32"))
        .dataSync();
    const before = run();
    values[0] = values[0]! + 3; // the first position of the first frame
    const after = run();
    const moved = Array.from({ length: 3 * 4 * 4 }, (_, i) => i).filter(
      (i) => Math.abs(after[2 * i]! - before[2 * i]!) > 1e-7,
    );
    expect(moved).toEqual([0, 1, 4, 5]);
  });
});

describe("the objective", () => {
  test("its gradients equal finite differences", () => {
    // Without self-conditioning: its first pass is a constant to the gradient, not to differences.
    const small = { ...space, grid: [2, 2, 4], clip: { ...clip, frames: 5 } } as const;
    const windows = { ...model, spatial_window: [1, 2, 2] };
    const without = { ...config, self_conditioning: 0, condition_frames: 1 };
    const objective = buildDiffusion(without, windows, small, Scope.root(5));
    shake(objective.scope, 0.1);
    const batch = { ...batchOf(3, [0, 1, 2]), codes: new Random(1, "c").normals(3 * 32) };
    const inputs = toTensors(objective.inputs(batch, 7, 1, true));
    const loss = () => objective.loss(inputs).loss;
    const variables = objective.scope.trainable();
    const { grads } = tf.variableGrads(loss, [...variables.values()]);
    const wrong: string[] = [];
    for (const [name, variable] of variables) {
      const gradient = grads[variable.name]!;
      const start = tf.clone(variable);
      const direction = tf.tensor(new Random(3, name).normals(variable.size), variable.shape);
      const slope = tf.sum(tf.mul(gradient, direction)).dataSync()[0]!;
      const at = (amount: number) => {
        variable.assign(tf.add(start, tf.mul(direction, amount)));
        return loss().dataSync()[0]!;
      };
      const epsilon = 2e-3;
      const near = at(epsilon) - at(-epsilon);
      const far = at(2 * epsilon) - at(-2 * epsilon);
      const difference = (8 * near - far) / (12 * epsilon);
      variable.assign(start);
      if (!(Math.abs(difference - slope) < 1e-3 + 0.02 * Math.abs(slope))) {
        wrong.push(`${name}: ${difference} against ${slope}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test("no gradient flows through the first pass, but its estimate is seen", () => {
    const objective = build({ self_conditioning: 1 });
    const inputs = toTensors(objective.inputs(batchOf(2, [0, 2]), 7, 1, false));
    const blind = { ...inputs, shown: tf.zerosLike(inputs.shown!) };
    const [seen, unseen] = [inputs, blind].map((x) => objective.loss(x).loss.dataSync()[0]!);
    expect(seen).not.toBe(unseen);
    const kernel = objective.scope.trainable().get("transformer/embed/latents/kernel")!;
    const { grads } = tf.variableGrads(() => objective.loss(blind).loss, [kernel]);
    // The rows of the estimate's channels see zeros, so only a leak could move them.
    const rows = tf.slice(grads[kernel.name]!, [2, 0], [2, 8]);
    expect(Math.max(...tf.abs(rows).dataSync())).toBe(0);
  });

  test("an untrained network pays the variance of v, about 1 for normalised latents", () => {
    const objective = buildDiffusion({ ...config, tasks: [] }, model, space, Scope.root(2));
    const inputs = toTensors(objective.inputs(batchOf(64), 1, 0, false));
    expect(objective.loss(inputs).loss.dataSync()[0]).toBeCloseTo(1, 1);
  });

  test("given frames are not counted, unless the condition is hidden", () => {
    const objective = build({ self_conditioning: 0 });
    const inputs = toTensors(objective.inputs(batchOf(2, [1, 2]), 7, 1, false));
    expect([...inputs.known!.dataSync()]).toEqual([1, 1, 0, 1, 1, 0]);
    expect([...inputs.labels!.dataSync()]).toEqual([3, 1]); // FP is not told its class
    const share = (dropped: boolean[]) => {
      const all = { ...inputs, dropped: tf.tensor1d(dropped, "bool") };
      return objective.loss(all).metrics.given_share!.dataSync()[0];
    };
    expect(share([false, false])).toBeCloseTo(2 / 3, 6);
    expect(share([true, false])).toBeCloseTo(1 / 3, 6);
  });

  test("noise is a function of seed and step; validation drops nothing", () => {
    const objective = build();
    const batch = batchOf(3, [0, 1, 2]);
    expect(objective.inputs(batch, 1, 5, true)).toEqual(objective.inputs(batch, 1, 5, true));
    expect(objective.inputs(batch, 1, 5, true)).not.toEqual(objective.inputs(batch, 1, 6, true));
    expect(objective.inputs(batch, 1, 5, false).dropped).toBeUndefined();
  });
});

describe("sampling", () => {
  test("DDIM finds the signal that an oracle knows, in any number of steps", async () => {
    const signal = new Random(4, "signal").normals(length);
    const x = tf.tensor5d(signal, [1, ...grid, 2]);
    const schedule = noiseSchedule("cosine", 100);
    const states = Scope.root(0);
    for (const steps of [1, 3, 10]) {
      const visited = samplerSteps(100, steps);
      let call = 0;
      const network: DiffusionNetwork = {
        transformer: {
          nullClass: 0,
          predict(z) {
            const t = visited[call++ % steps]!;
            const [a, s] = [schedule.alpha[t]!, schedule.sigma[t]!];
            const noise = tf.div(tf.sub(z, tf.mul(a, x)), s);
            return tf.sub(tf.mul(a, noise), tf.mul(s, x));
          },
        },
        selfConditioned: false,
        framed: false,
        given: 0,
        mean: states.child(`${steps}`).state("mean", [2], () => Float32Array.of(1, -1)),
        deviation: states.child(`${steps}`).state("deviation", [2], () => Float32Array.of(2, 3)),
        schedule,
        names: [],
        grid,
        width: 2,
      };
      const sampling = { ...config.sampling, steps, guidance: 1 };
      const sample = buildDiffusionSampler(device, { sampling, label_dropout: 0 }, network);
      const made = await sample({ labels: Int32Array.of(-1), seed: 1 });
      made.forEach((value, i) => {
        const wanted = i % 2 === 0 ? signal[i]! * 2 + 1 : signal[i]! * 3 - 1;
        expect(value).toBeCloseTo(wanted, 3);
      });
    }
  });

  test("depends on seed, class and guidance alone, and never changes given frames", async () => {
    const objective = build();
    const sample = objective.latentSampler(device);
    const labels = Int32Array.of(0, 2);
    const codes = new Random(2, "given").normals(2 * length);
    const made = await sample({ labels, seed: 3, task: 2, codes });
    expect(made).toEqual(await sample({ labels, seed: 3, task: 2, codes }));
    expect(made).not.toEqual(await sample({ labels, seed: 4, task: 2, codes }));
    const frames = objective.given * 4 * 4 * 2;
    expect(objective.given).toBe(2);
    for (const b of [0, 1]) {
      const [from, to] = [b * length, b * length + frames];
      expect(made.slice(from, to)).toEqual(codes.slice(from, to));
      expect(made.slice(to, from + length)).not.toEqual(codes.slice(to, from + length));
    }
    const unguided = build({ sampling: { ...config.sampling, guidance: 1 } }).latentSampler(device);
    expect(await unguided({ labels, seed: 3, task: 2, codes })).not.toEqual(made);
    const one = await sample({ labels: Int32Array.of(0, 0), seed: 3 });
    const other = await sample({ labels: Int32Array.of(0, 1), seed: 3 });
    expect(one.slice(0, length)).toEqual(other.slice(0, length));
    expect(one.slice(length)).not.toEqual(other.slice(length));
    // What follows the given frames has no influence.
    const changed = codes.map((value, i) => (i % length < frames ? value : -value));
    expect(await sample({ labels, seed: 3, task: 2, codes: changed })).toEqual(made);
  });

  test("errors are clear", async () => {
    const labels = Int32Array.of(0);
    const framed = build({ tasks: [{ task: "FP", weight: 1 }] }).latentSampler(device);
    await expect(framed({ labels, seed: 0 })).rejects.toThrow("needs a task");
    await expect(framed({ labels, seed: 0, task: 0 })).rejects.toThrow("latents of 1 clips");
    expect(() => build({ label_dropout: 0 }).latentSampler(device)).toThrow("label_dropout is 0");
    expect(() => build().sampler(device)).toThrow("latents, not ids");
  });
});

test("given frames are whole latent frames of a causal tokenizer", () => {
  expect([1, 4, 5, 8, 9].map((n) => givenLatents(clip, grid, n))).toEqual([1, 1, 2, 2, 3]);
  const check = (changes: Partial<DiffusionConfig>, causal = true) =>
    checkDiffusion({ ...config, ...changes }, model, grid, { ...clip, causal }).map((p) => p.hint);
  expect(check({})).toEqual([]);
  expect(check({ condition_frames: 3 })).toEqual(["give 1 or 5 frames"]);
  expect(check({ condition_frames: 9 })).toEqual(["give fewer frames than a clip has"]);
  expect(check({}, false)[0]).toMatch("causal tokenizer");
  expect(check({ noise_steps: 3 })[0]).toMatch("fewer steps");
  const uneven = { ...model, temporal_window: [2, 0, 0] };
  expect(checkDiffusion(config, uneven, grid, clip)[0]?.path).toBe("model.temporal_window");
});

test("statistics of latents by channel; a constant channel keeps a deviation of 1", () => {
  const codes = Float32Array.from([1, 7, 3, 7, 5, 7, 7, 7]);
  const { mean, deviation } = latentStatistics({ codes }, 2);
  expect([...mean]).toEqual([4, 7]);
  expect([...deviation]).toEqual([Math.fround(Math.sqrt(5)), 1]);
  expect(() => latentStatistics({}, 2)).toThrow("hold no latents");
});
