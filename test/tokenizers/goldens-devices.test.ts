/**
 * @file Every reference value of test/goldens/quantizers.json on every device that is here: ids, codes,
 * distances, losses, entropies, bounds and moving averages. A last test holds that no value is left out.
 */

import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import type { Device } from "../../src/runtime/device.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32, type HostTensor, type HostTensors } from "../../src/runtime/tensors.ts";
import { bsqSchemaDefaults, fsqConfig } from "./golden-configs.ts";
import { scores } from "../../src/tokenizers/quantizers/codebook.ts";
import * as bsq from "../../src/tokenizers/quantizers/bsq.ts";
import * as fsq from "../../src/tokenizers/quantizers/fsq.ts";
import * as lfq from "../../src/tokenizers/quantizers/lfq.ts";
import type { Quantizer } from "../../src/tokenizers/quantizers/quantizer.ts";
import * as vq from "../../src/tokenizers/quantizers/vq.ts";
import { devicesHere, watched } from "./golden-devices.ts";
import { golden, lfqConfig, vqConfig, worstError } from "./helpers.ts";

type Rows = number[][];
interface Entropies {
  sample_entropy: number;
  avg_entropy: number;
  loss: number;
}
interface Others {
  per_sample_entropy: number;
  codebook_entropy: number;
  loss_gamma1: number;
}
interface FsqBound {
  half_l: number[];
  shift: number[];
  bounded: Rows;
  round: Rows;
  codes: Rows;
  level_indices: Rows;
  indices: number[];
}
const { golden: q, unread } = watched(
  golden<{
    vq: {
      z: Rows;
      codebook: Rows;
      sq_dist: Rows;
      indices: number[];
      commitment_mse: number;
      commitment_beta025: number;
      codebook_plus_beta025: number;
      perplexity_eps1e10: number;
      ema: {
        decay: number;
        eps: number;
        N0: string;
        N1: number[];
        z_avg1: Rows;
        embeddings1: Rows;
      };
    };
    vq_cosine: { indices: number[]; commitment_mse: number };
    lfq: {
      x: Rows;
      indices_lsb_first: number[];
      indices_msb_first: number[];
      quantized: Rows;
      commit_mse: number;
      magvit_tau_1: Entropies;
      "magvit_tau_0.1": Entropies;
      "magvit_tau_0.01": Entropies;
      lucidrains_invtemp_1: Others;
      lucidrains_invtemp_10: Others;
      lucidrains_invtemp_100: Others;
      factorised_sample_entropy_tau1: number;
      factorised_avg_entropy_per_bit_tau1: number;
    };
    bsq: {
      u: Rows;
      quantized: Rows;
      commit_mse: number;
      sample_entropy_beta1: number;
      avg_entropy_beta1: number;
    };
    fsq: {
      z: Rows;
      levels: number[];
      basis: number[];
      codebook_size: number;
      official: FsqBound;
      lucidrains: FsqBound;
    };
    fsq_symmetry_preserving: { codes: Rows; level_indices: Rows };
  }>("quantizers.json"),
);
/** What the constant in our logarithm takes from the entropy of `n` probabilities well above it. */
const CONSTANT = 1e-5;
const found = await devicesHere("quantizers' goldens");

it("there is the reference and at least one compiled device", () => {
  expect(found.map(([name]) => name)).toContain("reference");
  expect(found.length).toBeGreaterThan(1);
});

describe.each(found)("goldens on %s", (_, config) => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice(config);
  });
  afterAll(() => device.dispose());

  const rowsOf = (rows: Rows): HostTensor =>
    float32([1, 1, 1, rows.length, rows[0]!.length], Float32Array.from(rows.flat()));
  const run = async (
    name: string,
    f: (x: tf.Tensor5D) => { readonly [name: string]: tf.Tensor },
    x: HostTensor,
  ): Promise<HostTensors> => {
    device.activate();
    return device.compile(name, (inputs) => f(inputs["x"] as tf.Tensor5D))({ x });
  };
  const assigned = async (quantizer: Quantizer, rows: Rows) => {
    const made = await run("assign", (x) => ({ ...quantizer.assign(x) }), rowsOf(rows));
    return { ids: [...made["ids"]!.data], codes: made["codes"]!.data };
  };
  const trained = (quantizer: Quantizer, rows: Rows, training: boolean) =>
    run(
      "quantize",
      (x) => {
        const { loss, metrics } = quantizer.quantize(x, tf.scalar(0), training);
        return { loss, ...metrics };
      },
      rowsOf(rows),
    );
  const of = (made: HostTensors, name: string): number => made[name]!.data[0]!;
  const openVq = (changes: object) => {
    device.activate();
    const scope = Scope.root(0);
    const full = { ...vqConfig, size: 8, width: 4, data_init: false, restart_below: 0 };
    const quantizer = vq.build({ ...full, entropy_weight: 0, ...changes }, scope);
    const codebook = tf.tensor2d(q.vq.codebook);
    scope.variables().get("codebook")!.assign(codebook);
    return { scope, quantizer };
  };

  it("vq: ids, codes, losses, perplexity, by distance and by angle", async () => {
    const { quantizer } = openVq({});
    const { ids, codes } = await assigned(quantizer, q.vq.z);
    expect(ids).toEqual(q.vq.indices);
    const wanted = q.vq.indices.flatMap((i) => q.vq.codebook[i]!);
    expect(worstError(codes, wanted)).toBeLessThan(1e-6);
    const made = await trained(quantizer, q.vq.z, false);
    expect(of(made, "loss")).toBeCloseTo(q.vq.codebook_plus_beta025, 5);
    expect(of(made, "commitment")).toBeCloseTo(q.vq.commitment_mse, 5);
    const half = openVq({ codebook_weight: 0 }).quantizer;
    const alone = await trained(half, q.vq.z, false);
    expect(of(alone, "loss")).toBeCloseTo(q.vq.commitment_beta025, 5);
    expect(of(made, "perplexity")).toBeCloseTo(q.vq.perplexity_eps1e10, 4);
    const cosine = openVq({ distance: "cosine" }).quantizer;
    expect((await assigned(cosine, q.vq.z)).ids).toEqual(q.vq_cosine.indices);
    const angles = await trained(cosine, q.vq.z, false);
    expect(of(angles, "commitment")).toBeCloseTo(q.vq_cosine.commitment_mse, 5);
  });

  it("vq: squared distances", async () => {
    const made = await run(
      "distances",
      (x) => {
        const rows = tf.reshape(x, [6, 4]) as tf.Tensor2D;
        const own = tf.sum(tf.square(rows), 1, true);
        return { distances: tf.add(scores(rows, tf.tensor2d(q.vq.codebook)), own) };
      },
      rowsOf(q.vq.z),
    );
    expect(worstError(made["distances"]!.data, q.vq.sq_dist.flat())).toBeLessThan(1e-5);
  });

  it("vq: one step of the moving averages", async () => {
    const { decay, N0 } = q.vq.ema;
    expect(N0).toBe("ones"); // which our states begin with
    expect(q.vq.ema.eps).toBe(1e-7);
    const { scope, quantizer } = openVq({ learn: "ema", ema_decay: decay });
    await trained(quantizer, q.vq.z, true);
    // States are read as the device holds them.
    device.activate();
    const read = async (name: string): Promise<ArrayLike<number>> => {
      const variable = scope.variables().get(name)!;
      const { value } = await device.compile(`read/${name}`, () => ({ value: tf.add(variable, 0) }))({}); // biome-ignore format: one call
      return value!.data;
    };
    expect(worstError(await read("cluster_size"), q.vq.ema.N1)).toBeLessThan(1e-5);
    expect(worstError(await read("cluster_sum"), q.vq.ema.z_avg1.flat())).toBeLessThan(1e-5);
    expect(worstError(await read("codebook"), q.vq.ema.embeddings1.flat())).toBeLessThan(1e-4);
  });

  it("lfq: codes, ids, commitment, entropies at three temperatures", async () => {
    const four = { ...lfqConfig, bits: 4 };
    const { ids, codes } = await assigned(lfq.build(four), q.lfq.x);
    expect(ids).toEqual(q.lfq.indices_lsb_first);
    expect([...codes]).toEqual(q.lfq.quantized.flat());
    // The other bit order is ours read backwards.
    const reversed = ids.map((id) => [0, 1, 2, 3].reduce((sum, b) => sum + (((id >> b) & 1) << (3 - b)), 0)); // biome-ignore format: one call
    expect(reversed).toEqual(q.lfq.indices_msb_first);
    for (const tau of [1, 0.1, 0.01] as const) {
      const quantizer = lfq.build({ ...four, entropy_temperature: tau });
      const made = await trained(quantizer, q.lfq.x, true);
      const wanted = q.lfq[`magvit_tau_${tau}`];
      expect(of(made, "commitment")).toBeCloseTo(q.lfq.commit_mse, 5);
      expect(of(made, "sample_entropy")).toBeCloseTo(wanted.sample_entropy, 4);
      expect(of(made, "batch_entropy")).toBeCloseTo(wanted.avg_entropy, 4);
      const loss = of(made, "sample_entropy") - of(made, "batch_entropy");
      expect(loss).toBeCloseTo(wanted.loss, 4);
      // The loss is what these parts and the commitment make of it.
      const { commitment_weight, entropy_weight } = four;
      const whole = commitment_weight * q.lfq.commit_mse + entropy_weight * wanted.loss;
      expect(of(made, "loss")).toBeCloseTo(whole, 4);
      // vector-quantize-pytorch clamps where MAGVIT adds a constant: 16 codes, 1e-5 a code.
      const other = q.lfq[`lucidrains_invtemp_${(1 / tau) as 1 | 10 | 100}`];
      expect(of(made, "sample_entropy")).toBeCloseTo(other.per_sample_entropy, 4);
      const clamped = of(made, "batch_entropy") + 16 * CONSTANT;
      expect(Math.abs(clamped - other.codebook_entropy)).toBeLessThan(1e-4);
      expect(Math.abs(loss - 16 * CONSTANT - other.loss_gamma1)).toBeLessThan(1e-4);
    }
    const bits = lfq.build({ ...four, entropy_temperature: 1, entropy_group_bits: 1 });
    const made = await trained(bits, q.lfq.x, true);
    expect(of(made, "sample_entropy")).toBeCloseTo(q.lfq.factorised_sample_entropy_tau1, 4);
    const batch = of(made, "batch_entropy") + 8 * CONSTANT;
    expect(batch).toBeCloseTo(q.lfq.factorised_avg_entropy_per_bit_tau1, 4);
  });

  it("bsq: codes, commitment, entropies", async () => {
    const quantizer = bsq.build({ ...bsqSchemaDefaults, bits: 4, factor_bits: 4, entropy_temperature: 1, entropy_group_bits: 1 }); // biome-ignore format: one call
    const { codes } = await assigned(quantizer, q.lfq.x);
    expect(worstError(codes, q.bsq.quantized.flat())).toBeLessThan(1e-6);
    // Latents come to length one first, so the unit vectors themselves give the same codes.
    const unit = await assigned(quantizer, q.bsq.u);
    expect(worstError(unit.codes, q.bsq.quantized.flat())).toBeLessThan(1e-6);
    for (const row of q.bsq.u) {
      expect(Math.hypot(...row)).toBeCloseTo(1, 6);
    }
    const made = await trained(quantizer, q.lfq.x, true);
    expect(of(made, "commitment")).toBeCloseTo(q.bsq.commit_mse, 5);
    expect(of(made, "sample_entropy")).toBeCloseTo(q.bsq.sample_entropy_beta1, 4);
    expect(of(made, "batch_entropy")).toBeCloseTo(q.bsq.avg_entropy_beta1 - 8e-5, 4);
  });

  it("fsq: bounds, levels, codes and ids in each form", async () => {
    const { levels, basis, codebook_size, z } = q.fsq;
    const digits = (ids: readonly number[]): number[] =>
      ids.flatMap((id) => levels.map((size, d) => Math.floor(id / basis[d]!) % size));
    for (const [bound, name] of [
      ["paper", "official"],
      ["widened", "lucidrains"],
    ] as const) {
      const expected = q.fsq[name];
      const full = fsqConfig(levels, bound);
      const quantizer = fsq.build(full);
      expect(quantizer.factors).toEqual([codebook_size]);
      const { ids, codes } = await assigned(quantizer, z);
      expect(ids).toEqual(expected.indices);
      expect(digits(ids)).toEqual(expected.level_indices.flat());
      expect(worstError(codes, expected.codes.flat())).toBeLessThan(1e-6);
      const rounded = Array.from(codes, (code, i) => code * Math.floor(levels[i % 4]! / 2));
      expect(worstError(rounded, expected.round.flat())).toBeLessThan(1e-5);
      const made = await run(
        `bounds-${bound}`,
        (x) => {
          const rows = tf.reshape(x, [z.length, 4]) as tf.Tensor2D;
          const far = fsq.boundChannels(tf.fill([1, 4], 30), full); // half - offset
          const near = fsq.boundChannels(tf.neg(tf.tensor2d([expected.shift])), full); // -offset
          return { bounded: fsq.boundChannels(rows, full), half: tf.sub(far, near), near };
        },
        rowsOf(z),
      );
      expect(worstError(made["bounded"]!.data, expected.bounded.flat())).toBeLessThan(5e-6);
      expect(worstError(made["half"]!.data, expected.half_l)).toBeLessThan(5e-6);
      const offsets = levels.map((size) => (size % 2 === 0 ? -0.5 : 0));
      expect(worstError(made["near"]!.data, offsets)).toBeLessThan(5e-6);
    }
    const symmetric = await assigned(fsq.build(fsqConfig(levels, "symmetric")), z);
    expect(worstError(symmetric.codes, q.fsq_symmetry_preserving.codes.flat())).toBeLessThan(1e-6);
    expect(digits(symmetric.ids)).toEqual(q.fsq_symmetry_preserving.level_indices.flat());
  });
});

it("every value of the file is looked at", () => {
  expect(unread()).toEqual([]);
});
