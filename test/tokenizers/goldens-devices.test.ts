/**
 * @file The reference values of quantizers and layers (test/goldens) on every device that is here:
 * quantizers' ids, codes, losses, entropies and moving averages; norms, causal convolutions, activations.
 */

import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { conv, groupNorm, layerNorm } from "../../src/models/layers.ts";
import { Scope } from "../../src/models/scope.ts";
import type { Device } from "../../src/runtime/device.ts";
import { gelu, silu } from "../../src/runtime/ops.ts";
import { type DeviceConfig, openDevice } from "../../src/runtime/registry.ts";
import { float32, type HostTensor, type HostTensors } from "../../src/runtime/tensors.ts";
import { bsqSchemaDefaults, fsqConfig } from "./golden-configs.ts";
import * as bsq from "../../src/tokenizers/quantizers/bsq.ts";
import * as fsq from "../../src/tokenizers/quantizers/fsq.ts";
import * as lfq from "../../src/tokenizers/quantizers/lfq.ts";
import type { Quantizer } from "../../src/tokenizers/quantizers/quantizer.ts";
import * as vq from "../../src/tokenizers/quantizers/vq.ts";
import { golden, lfqConfig, sym, vqConfig, worstError } from "./helpers.ts";

type Rows = number[][];
const q = golden<{
  vq: {
    z: Rows;
    codebook: Rows;
    indices: number[];
    commitment_mse: number;
    codebook_plus_beta025: number;
    perplexity_eps1e10: number;
    ema: { N1: number[]; z_avg1: Rows; embeddings1: Rows };
  };
  vq_cosine: { indices: number[]; commitment_mse: number };
  lfq: {
    x: Rows;
    indices_lsb_first: number[];
    quantized: Rows;
    commit_mse: number;
    magvit_tau_1: { sample_entropy: number; avg_entropy: number };
    "magvit_tau_0.1": { sample_entropy: number; avg_entropy: number };
    "magvit_tau_0.01": { sample_entropy: number; avg_entropy: number };
  };
  bsq: {
    quantized: Rows;
    commit_mse: number;
    sample_entropy_beta1: number;
    avg_entropy_beta1: number;
  };
  fsq: {
    z: Rows;
    levels: number[];
    official: { codes: Rows; indices: number[] };
    lucidrains: { codes: Rows; indices: number[] };
  };
  fsq_symmetry_preserving: { codes: Rows };
}>("quantizers.json");
const l = golden<{
  group_norm: { eps1e6: number[] };
  group_norm_per_frame_eps1e6: number[];
  conv3d_causal: { zero_pad: number[]; zero_stride_2_1_1: number[]; noncausal_same: number[] };
  activations: {
    x: number[];
    gelu_erf: number[];
    silu: number[];
    leaky02: number[];
    softplus: number[];
  };
}>("layers.json");

/** Devices by name; those that cannot be opened here are left out, with the reason printed. */
const candidates: readonly (readonly [string, DeviceConfig])[] = [
  ["reference", { type: "reference" }],
  ["cpu native", { type: "cpu", engine: "native", threads: 1 }],
  ["cpu onnx", { type: "cpu", engine: "onnx", threads: 1 }],
  ["torch-cpu", { type: "torch-cpu" } as DeviceConfig],
];
const found: (readonly [string, DeviceConfig])[] = [];
for (const [name, config] of candidates) {
  try {
    (await openDevice(config)).dispose();
    found.push([name, config]);
  } catch (error) {
    process.stderr.write(`goldens: no ${name}: ${(error as Error).message.split("\n")[0]}\n`);
  }
}

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
    expect(of(made, "perplexity")).toBeCloseTo(q.vq.perplexity_eps1e10, 4);
    const cosine = openVq({ distance: "cosine" }).quantizer;
    expect((await assigned(cosine, q.vq.z)).ids).toEqual(q.vq_cosine.indices);
    const angles = await trained(cosine, q.vq.z, false);
    expect(of(angles, "commitment")).toBeCloseTo(q.vq_cosine.commitment_mse, 5);
  });

  it("vq: one step of the moving averages", async () => {
    const { scope, quantizer } = openVq({ learn: "ema" });
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
    for (const tau of [1, 0.1, 0.01] as const) {
      const quantizer = lfq.build({ ...four, entropy_temperature: tau });
      const made = await trained(quantizer, q.lfq.x, true);
      const wanted = q.lfq[`magvit_tau_${tau}`];
      expect(of(made, "commitment")).toBeCloseTo(q.lfq.commit_mse, 5);
      expect(of(made, "sample_entropy")).toBeCloseTo(wanted.sample_entropy, 4);
      expect(of(made, "batch_entropy")).toBeCloseTo(wanted.avg_entropy, 4);
    }
  });

  it("bsq: codes, commitment, entropies", async () => {
    const quantizer = bsq.build({ ...bsqSchemaDefaults, bits: 4, factor_bits: 4, entropy_temperature: 1, entropy_group_bits: 1 }); // biome-ignore format: one call
    const { codes } = await assigned(quantizer, q.lfq.x);
    expect(worstError(codes, q.bsq.quantized.flat())).toBeLessThan(1e-6);
    const made = await trained(quantizer, q.lfq.x, true);
    expect(of(made, "commitment")).toBeCloseTo(q.bsq.commit_mse, 5);
    expect(of(made, "sample_entropy")).toBeCloseTo(q.bsq.sample_entropy_beta1, 4);
    expect(of(made, "batch_entropy")).toBeCloseTo(q.bsq.avg_entropy_beta1 - 8e-5, 4);
  });

  it("fsq: codes and ids in each form", async () => {
    for (const [bound, name] of [
      ["paper", "official"],
      ["widened", "lucidrains"],
    ] as const) {
      const { ids, codes } = await assigned(fsq.build(fsqConfig(q.fsq.levels, bound)), q.fsq.z);
      expect(ids).toEqual(q.fsq[name].indices);
      expect(worstError(codes, q.fsq[name].codes.flat())).toBeLessThan(1e-6);
    }
    const symmetric = await assigned(fsq.build(fsqConfig(q.fsq.levels, "symmetric")), q.fsq.z);
    expect(worstError(symmetric.codes, q.fsq_symmetry_preserving.codes.flat())).toBeLessThan(1e-6);
  });

  /** Channel-first goldens of a layer over the 2×6×3×4×5 input. */
  const layer = async (name: string, f: (x: tf.Tensor5D) => tf.Tensor5D) => {
    const x = float32([2, 6, 3, 4, 5], Float32Array.from(sym(41, 720)));
    const made = await run(
      name,
      (first) => ({
        y: tf.transpose(f(tf.transpose(first, [0, 2, 3, 4, 1])), [0, 4, 1, 2, 3]),
      }),
      x,
    );
    return made["y"]!.data;
  };
  const scaled = (seed: number, n: number, f: (v: number) => number) =>
    Float32Array.from(sym(seed, n), f);

  it("group norm over clips and over frames, layer norm", async () => {
    for (const [perFrame, wanted] of [
      [false, l.group_norm.eps1e6],
      [true, l.group_norm_per_frame_eps1e6],
    ] as const) {
      device.activate();
      const scope = Scope.root(0);
      const norm = groupNorm(scope, { channels: 6, groups: 3, perFrame });
      scope
        .variables()
        .get("scale")!
        .assign(tf.tensor1d(scaled(42, 6, (v) => 1 + 0.2 * v)));
      scope
        .variables()
        .get("shift")!
        .assign(tf.tensor1d(scaled(43, 6, (v) => 0.3 * v)));
      expect(worstError(await layer(`norm${perFrame}`, norm), wanted)).toBeLessThan(2e-5);
    }
    device.activate();
    const plain = layerNorm(Scope.root(0), { width: 5 });
    const x = float32([1, 1, 1, 2, 5], Float32Array.from(sym(3, 10)));
    const made = (await run("layer", (v) => ({ y: plain(v) }), x))["y"]!.data;
    const mean = Array.from(made)
      .slice(0, 5)
      .reduce((a, b) => a + b, 0);
    expect(Math.abs(mean)).toBeLessThan(1e-4);
  });

  it("convolutions, causal, strided and symmetric", async () => {
    for (const [name, options, wanted] of [
      ["causal", { padding: "causal" }, l.conv3d_causal.zero_pad],
      ["strided", { padding: "causal", strides: [2, 1, 1] }, l.conv3d_causal.zero_stride_2_1_1],
      ["same", { padding: "same" }, l.conv3d_causal.noncausal_same],
    ] as const) {
      device.activate();
      const scope = Scope.root(0);
      const made = conv(scope, { inputs: 6, outputs: 4, ...options });
      const kernel = tf.tensor(
        scaled(44, 648, (v) => 0.2 * v),
        [4, 6, 3, 3, 3],
      );
      scope
        .variables()
        .get("kernel")!
        .assign(tf.transpose(kernel, [2, 3, 4, 1, 0]));
      scope
        .variables()
        .get("bias")!
        .assign(tf.tensor1d(scaled(45, 4, (v) => 0.1 * v)));
      expect(worstError(await layer(name, made), wanted)).toBeLessThan(2e-5);
    }
  });

  it("activations", async () => {
    const { x, ...wanted } = l.activations; // our GELU is the exact form
    const made = await run(
      "activations",
      (v) => ({
        gelu_erf: gelu(v),
        silu: silu(v),
        leaky02: tf.leakyRelu(v, 0.2),
        softplus: tf.softplus(v),
      }),
      float32([1, 1, 1, 1, x.length], Float32Array.from(x)),
    );
    for (const name of ["gelu_erf", "silu", "leaky02", "softplus"] as const) {
      expect(worstError(made[name]!.data, wanted[name])).toBeLessThan(2e-6);
    }
  });
});
