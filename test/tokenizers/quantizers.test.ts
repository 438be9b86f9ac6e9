/** @file Quantizers against goldens, finite differences and round trips. */

import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import * as lfq from "../../src/tokenizers/quantizers/lfq.ts";
import * as vq from "../../src/tokenizers/quantizers/vq.ts";
import {
  clips,
  worstError,
  gradientError,
  golden,
  lfqConfig,
  sym,
  useReference,
  vqConfig,
} from "./helpers.ts";

interface QuantizersGolden {
  vq: {
    z: number[][];
    codebook: number[][];
    indices: number[];
    commitment_mse: number;
    codebook_plus_beta025: number;
    perplexity_eps1e10: number;
    ema: { N1: number[]; z_avg1: number[][]; embeddings1: number[][] };
  };
  lfq: {
    x: number[][];
    indices_lsb_first: number[];
    quantized: number[][];
    commit_mse: number;
    magvit_tau_1: { sample_entropy: number; avg_entropy: number };
    "magvit_tau_0.1": { sample_entropy: number; avg_entropy: number };
    "magvit_tau_0.01": { sample_entropy: number; avg_entropy: number };
  };
}

const g = golden<QuantizersGolden>("quantizers.json");
const step = () => tf.scalar(0);
const value = (x: tf.Tensor | undefined): number => x!.dataSync()[0]!;
/** Rows as a latent of one clip: [1, 1, 1, N, D]. */
const latent = (rows: number[][]): tf.Tensor5D =>
  tf.tensor5d(rows.flat(), [1, 1, 1, rows.length, rows[0]!.length]);
beforeAll(useReference);

describe("lfq", () => {
  const z = () => latent(g.lfq.x);
  const four = { ...lfqConfig, bits: 4 };

  it("gives the goldens' codes and ids, least significant bit first", () => {
    const { codes, ids } = lfq.build(four).assign(z());
    expect([...ids.dataSync()]).toEqual(g.lfq.indices_lsb_first);
    expect([...codes.dataSync()]).toEqual(g.lfq.quantized.flat());
  });

  it("gives the goldens' commitment and entropies at each temperature", () => {
    for (const tau of [1, 0.1, 0.01] as const) {
      const { metrics } = lfq
        .build({ ...four, entropy_temperature: tau })
        .quantize(z(), step(), true);
      const expected = g.lfq[`magvit_tau_${tau}`];
      expect(value(metrics.commitment)).toBeCloseTo(g.lfq.commit_mse, 6);
      expect(value(metrics.sample_entropy)).toBeCloseTo(expected.sample_entropy, 5);
      expect(value(metrics.batch_entropy)).toBeCloseTo(expected.avg_entropy, 5);
    }
  });

  it("sums the batch entropy over groups when they are smaller than the code", () => {
    const rows = tf.tensor2d(g.lfq.x);
    const halves = [0, 2].map((at) => lfq.batchEntropy(tf.slice(rows, [0, at], [10, 2]), 1, 2));
    const grouped = value(lfq.batchEntropy(rows, 1, 2));
    expect(grouped).toBeCloseTo(value(halves[0]) + value(halves[1]), 6);
    expect(grouped).toBeGreaterThan(g.lfq.magvit_tau_1.avg_entropy);
  });

  it.each([1, 3, 4])("has the right entropy gradients in groups of %i bits", (group) => {
    const at = tf.tensor2d(Float32Array.from(sym(5, 20)), [5, 4]);
    expect(gradientError((x) => lfq.sampleEntropy(x, 1.5), at)).toBeLessThan(1e-2);
    expect(gradientError((x) => lfq.batchEntropy(x, 1.5, group), at)).toBeLessThan(1e-2);
  });

  it("passes gradients straight through the sign", () => {
    const weights = tf.ones([1, 1, 1, 10, 4]);
    const quantizer = lfq.build({ ...four, entropy_weight: 0, commitment_weight: 0 });
    const f = (x: tf.Tensor) =>
      tf.sum(tf.mul(quantizer.quantize(x as tf.Tensor5D, step(), true).codes, weights));
    expect(worstError(tf.grad(f)(z()), new Float32Array(40).fill(1))).toBeLessThan(1e-6);
  });

  it("anneals the entropy weight on the step clock", () => {
    const config = { ...four, entropy_anneal_factor: 3, entropy_anneal_steps: 100 };
    const quantizer = lfq.build(config);
    const at = (n: number) =>
      value(quantizer.quantize(z(), tf.scalar(n), true).metrics.entropy_weight);
    expect(at(0)).toBeCloseTo(0.3, 6);
    expect(at(50)).toBeCloseTo(0.2, 6);
    expect(at(100)).toBeCloseTo(0.1, 6);
    expect(at(1000)).toBeCloseTo(0.1, 6);
  });

  it("brings every id back from its code, for any split into sub-ids", () => {
    const cases = fc.record({
      bits: fc.integer({ min: 1, max: 40 }),
      part: fc.integer({ min: 1, max: 16 }),
    });
    fc.assert(
      fc.property(cases, fc.integer({ min: 0, max: 2 ** 31 }), ({ bits, part }, seed) => {
        const quantizer = lfq.build({ ...lfqConfig, bits, factor_bits: part });
        expect(quantizer.factors.reduce((sum, size) => sum + Math.log2(size), 0)).toBe(bits);
        const { ids, codes } = quantizer.assign(clips([2, 1, 2, 3, bits], seed));
        quantizer.factors.forEach((size, f) => {
          const part = tf.gather(ids, f, 4).dataSync();
          expect(part.every((id) => id >= 0 && id < size)).toBe(true);
        });
        const back = quantizer.lookup(ids);
        expect(back.dataSync()).toEqual(codes.dataSync());
        expect(quantizer.assign(back).ids.dataSync()).toEqual(ids.dataSync());
      }),
      { numRuns: 40 },
    );
  });

  it("splits 18 bits into two sub-ids of 512", () => {
    const quantizer = lfq.build({ ...lfqConfig, bits: 18, factor_bits: 9 });
    expect(quantizer.factors).toEqual([512, 512]);
    const signs = new Float32Array(18).fill(-1);
    signs[1] = 1;
    signs[9] = 1;
    signs[17] = 1;
    const { ids } = quantizer.assign(tf.tensor5d(signs, [1, 1, 1, 1, 18]));
    expect([...ids.dataSync()]).toEqual([2, 257]);
  });

  it("never holds a tensor that grows with the vocabulary", async () => {
    const bits = 36;
    const quantizer = lfq.build({ ...lfqConfig, bits, factor_bits: 9, entropy_group_bits: 9 });
    const z = clips([1, 1, 8, 8, bits], 3);
    const { kernels } = await tf.profile(() => {
      const { grad, value } = tf.valueAndGrad(
        (x) => quantizer.quantize(x as tf.Tensor5D, step(), true).loss,
      )(z);
      return [grad, value];
    });
    const sizes = kernels.flatMap((kernel) =>
      kernel.outputShapes.map((shape) => shape.reduce((a, b) => a * b, 1)),
    );
    expect(kernels.length).toBeGreaterThan(20);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(64 * bits); // the latents themselves
  });
});

describe("vq", () => {
  const build = (changes: Partial<typeof vqConfig>) => {
    const scope = Scope.root(0);
    const config = {
      ...vqConfig,
      size: 8,
      width: 4,
      data_init: false,
      restart_below: 0,
      ...changes,
    };
    const quantizer = vq.build(config, scope);
    scope.variables().get("codebook")!.assign(tf.tensor2d(g.vq.codebook));
    return { scope, quantizer };
  };
  const z = () => latent(g.vq.z);
  const states = (scope: Scope) =>
    new Map([...scope.variables()].map(([name, v]) => [name, Float32Array.from(v.dataSync())]));

  it("finds the goldens' nearest codes", () => {
    const { quantizer } = build({});
    const { ids, codes } = quantizer.assign(z());
    expect([...ids.dataSync()]).toEqual(g.vq.indices);
    expect(
      worstError(
        codes,
        g.vq.indices.flatMap((i) => g.vq.codebook[i]!),
      ),
    ).toBeLessThan(1e-6);
    expect(worstError(quantizer.lookup(ids), codes.dataSync())).toBeLessThan(1e-9);
  });

  it("takes the first of equally near codes", () => {
    const { scope, quantizer } = build({});
    scope
      .variables()
      .get("codebook")!
      .assign(tf.ones([8, 4]));
    expect([...quantizer.assign(z()).ids.dataSync()]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it("gives the goldens' losses and perplexity", () => {
    const { quantizer } = build({ entropy_weight: 0 });
    const { loss, metrics } = quantizer.quantize(z(), step(), false);
    expect(value(loss)).toBeCloseTo(g.vq.codebook_plus_beta025, 6);
    expect(value(metrics.commitment)).toBeCloseTo(g.vq.commitment_mse, 6);
    expect(value(metrics.perplexity)).toBeCloseTo(g.vq.perplexity_eps1e10, 4);
  });

  it("makes the goldens' moving-average step", () => {
    const { scope, quantizer } = build({ learn: "ema", entropy_weight: 0 });
    quantizer.quantize(z(), step(), true);
    expect([...scope.trainable().keys()]).toEqual([]);
    expect(worstError(scope.variables().get("cluster_size")!, g.vq.ema.N1)).toBeLessThan(1e-6);
    expect(worstError(scope.variables().get("cluster_sum")!, g.vq.ema.z_avg1.flat())).toBeLessThan(
      1e-6,
    );
    expect(
      worstError(scope.variables().get("codebook")!, g.vq.ema.embeddings1.flat()),
    ).toBeLessThan(1e-5);
  });

  it("quantizes each group of channels with a codebook of its own", () => {
    const scope = Scope.root(0);
    const config = { ...vqConfig, size: 8, width: 4, groups: 2, restart_below: 0 };
    const grouped = vq.build({ ...config, data_init: false }, scope);
    expect(grouped.factors).toEqual([8, 8]);
    const halves = [0, 1].map((g) => {
      const one = Scope.root(0);
      const half = vq.build({ ...config, width: 2, groups: 1, data_init: false }, one);
      const table = scope.variables().get(`group${g}/codebook`)!;
      one.variables().get("codebook")!.assign(tf.clone(table));
      return half;
    });
    const { codes, ids, metrics } = grouped.quantize(z(), step(), true);
    expect(ids.shape).toEqual([1, 1, 1, 6, 2]);
    let commitment = 0;
    halves.forEach((half, g) => {
      const rows = tf.slice(z(), [0, 0, 0, 0, 2 * g], [1, 1, 1, 6, 2]);
      const part = half.quantize(rows, step(), true);
      expect(tf.gather(ids, g, 4).dataSync()).toEqual(part.ids.dataSync());
      expect(
        worstError(tf.slice(codes, [0, 0, 0, 0, 2 * g], [1, 1, 1, 6, 2]), part.codes.dataSync()),
      ).toBeLessThan(1e-6);
      commitment += value(part.metrics.commitment) / 2;
    });
    const now = grouped.assign(z());
    expect(worstError(grouped.lookup(now.ids), now.codes.dataSync())).toBeLessThan(1e-9);
    expect(value(metrics.commitment)).toBeCloseTo(commitment, 6);
  });

  it("changes no state when it is not training", () => {
    for (const learn of ["ema", "gradient"] as const) {
      const { scope, quantizer } = build({ learn, data_init: true, restart_below: 0.5 });
      const before = states(scope);
      quantizer.quantize(z(), step(), false);
      expect(states(scope)).toEqual(before);
    }
  });

  it("has the right gradients to latents and codebook", () => {
    const { scope, quantizer } = build({ entropy_temperature: 0.7 });
    const codebook = scope.variables().get("codebook")!;
    const rows = tf.reshape(z(), [6, 4]) as tf.Tensor2D;
    const total = (x: tf.Tensor2D) =>
      quantizer.quantize(tf.reshape(x, [1, 1, 1, 6, 4]), step(), false).metrics;
    // Each part whose value depends on the latents, away from ties of the nearest code.
    expect(gradientError((x) => total(x).commitment!, rows, 1e-3)).toBeLessThan(1e-2);
    expect(gradientError((x) => total(x).sample_entropy!, rows, 1e-3)).toBeLessThan(1e-2);
    expect(gradientError((x) => total(x).batch_entropy!, rows, 1e-3)).toBeLessThan(1e-2);
    const { grads } = tf.variableGrads(
      () => quantizer.quantize(z(), step(), false).loss,
      [codebook],
    );
    const only = build({ entropy_weight: 0 });
    const exact = tf.variableGrads(
      () => only.quantizer.quantize(z(), step(), false).loss,
      [only.scope.variables().get("codebook")!],
    ).grads;
    // Without the penalty: 2 (e - z) / (N·D) on the chosen rows.
    const expected = new Float32Array(32);
    g.vq.indices.forEach((code, n) => {
      for (let d = 0; d < 4; d++) {
        expected[code * 4 + d]! += (2 * (g.vq.codebook[code]![d]! - g.vq.z[n]![d]!)) / 24;
      }
    });
    expect(worstError(Object.values(exact)[0]!, expected)).toBeLessThan(1e-6);
    expect(Object.values(grads)[0]!.shape).toEqual([8, 4]);
  });

  it("starts from data once, and knows it from state", () => {
    for (const learn of ["ema", "gradient"] as const) {
      const { scope, quantizer } = build({ learn, data_init: true, ema_decay: 0.9 });
      const { codes } = quantizer.quantize(z(), step(), true);
      expect(value(scope.variables().get("started"))).toBe(1);
      expect(worstError(codes, g.vq.z.flat())).toBeLessThan(1e-5); // 8 codes for 6 latents: each latent is a code
      const first = Float32Array.from(scope.variables().get("codebook")!.dataSync());
      quantizer.quantize(tf.add(z(), 5), tf.scalar(1), true);
      const second = scope.variables().get("codebook")!.dataSync();
      const moved = Math.max(...first.map((v, i) => Math.abs(v - second[i]!)));
      expect(moved).toBeLessThan(learn === "ema" ? 3 : 1e-9);
      // A resumed run: same variables in a new quantizer, so no second start.
      const resumed = build({ learn, data_init: true, ema_decay: 0.9 });
      for (const [name, v] of scope.variables()) {
        resumed.scope.variables().get(name)!.assign(tf.clone(v));
      }
      quantizer.quantize(z(), tf.scalar(2), true);
      resumed.quantizer.quantize(z(), tf.scalar(2), true);
      expect(states(resumed.scope)).toEqual(states(scope));
    }
  });

  it("replaces codes that fell out of use by latents of the batch", () => {
    const { scope, quantizer } = build({ learn: "ema", ema_decay: 0.5, restart_below: 0.2 });
    const codebook = scope.variables().get("codebook")!;
    const far = g.vq.codebook.map((row, k) => (k < 2 ? row.map(() => 100) : row));
    codebook.assign(tf.tensor2d(far));
    for (let i = 0; i < 4; i++) {
      quantizer.quantize(z(), tf.scalar(i), true);
    }
    expect(Math.max(...codebook.dataSync())).toBeLessThan(3);
    const sizes = scope.variables().get("cluster_size")!.dataSync();
    expect(Math.min(...sizes)).toBeGreaterThan(0.2 * 0.75);
  });
});
