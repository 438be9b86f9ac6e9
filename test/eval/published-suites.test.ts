/**
 * @file CLIPSIM and the Fréchet audio distance from end to end: small random networks in the files that
 * the published ones come in, given by their paths. A file of PyTorch is written where it is installed.
 */

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildSuite, type SuiteConfig } from "../../src/eval/registry.ts";
import type { EvalContext, Score } from "../../src/eval/suite.ts";
import { Scope } from "../../src/models/scope.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { encodeSafetensors } from "../../src/runtime/safetensors.ts";
import { float32, type HostTensor, sizeOf } from "../../src/runtime/tensors.ts";
import type { Tokenizer } from "../../src/tokenizers/tokenizer.ts";
import { sym } from "../models/features/formula.ts";
import { blockTokenizer, context, fakeObjective, shapes } from "./fakes.ts";

const folder = mkdtempSync(join(tmpdir(), "tessera-published-"));
const saved = process.env["TESSERA_WEIGHTS"];
let device: EvalContext["device"];

beforeAll(async () => {
  process.env["TESSERA_WEIGHTS"] = join(folder, "nothing");
  device = await openDevice({ type: "cpu" });
});
afterAll(() => {
  if (saved === undefined) {
    delete process.env["TESSERA_WEIGHTS"];
  } else {
    process.env["TESSERA_WEIGHTS"] = saved;
  }
  device.dispose();
  rmSync(folder, { recursive: true, force: true });
});

let seed = 0;
const random = (name: string, shape: number[], scale: number, offset = 0): [string, HostTensor] => [
  name,
  float32(shape, sym(seed++, sizeOf(shape), scale, offset)),
];
const linear = (name: string, outputs: number, inputs: number): [string, HostTensor][] => [
  random(`${name}.weight`, [outputs, inputs], Math.sqrt(3 / inputs)),
  random(`${name}.bias`, [outputs], 0.1),
];
const norm = (name: string, width: number): [string, HostTensor][] => [
  random(`${name}.weight`, [width], 0.1, 1),
  random(`${name}.bias`, [width], 0.1),
];

/** Merges of a vocabulary as large as CLIP's: what they merge is of no account. */
const mergeLines = (count: number): string[] =>
  Array.from({ length: count }, (_, i) => `${(i % 250).toString(36)}q ${i.toString(36)}z</w>`);

/** A CLIP of two blocks of width 64 over 32×32 pixels in the hub's layout; its words are CLIP's. */
function writeClip(path: string, vocabulary: number): void {
  const width = 64;
  const tower = (model: string): [string, HostTensor][] =>
    [0, 1].flatMap((i) => {
      const at = `${model}.encoder.layers.${i}`;
      return [
        ...["q_proj", "k_proj", "v_proj", "out_proj"].flatMap((part) =>
          linear(`${at}.self_attn.${part}`, width, width),
        ),
        ...linear(`${at}.mlp.fc1`, 4 * width, width),
        ...linear(`${at}.mlp.fc2`, width, 4 * width),
        ...norm(`${at}.layer_norm1`, width),
        ...norm(`${at}.layer_norm2`, width),
      ];
    });
  const tensors = new Map([
    random("vision_model.embeddings.patch_embedding.weight", [width, 3, 8, 8], 0.1),
    random("vision_model.embeddings.class_embedding", [width], 0.5),
    random("vision_model.embeddings.position_embedding.weight", [17, width], 0.3),
    ...norm("vision_model.pre_layrnorm", width),
    ...norm("vision_model.post_layernorm", width),
    random("visual_projection.weight", [32, width], 0.2),
    random("text_model.embeddings.token_embedding.weight", [vocabulary, width], 0.5),
    random("text_model.embeddings.position_embedding.weight", [16, width], 0.3),
    ...norm("text_model.final_layer_norm", width),
    random("text_projection.weight", [32, width], 0.2),
    ...tower("vision_model"),
    ...tower("text_model"),
  ]);
  writeFileSync(path, encodeSafetensors({ tensors, metadata: { format: "pt" } }));
}

const valueOf = (scores: readonly Score[], name: string): number =>
  scores.find((one) => one.name === name)!.value;

describe("clipsim", () => {
  const weights = join(folder, "model.safetensors");
  const merges = join(folder, "merges.txt");
  beforeAll(() => {
    writeClip(weights, 49_408);
    writeFileSync(merges, ["#version: 0.2", ...mergeLines(48_894)].join("\n"));
  });
  const config = {
    type: "clipsim",
    split: "validation",
    clips: 6,
    seed: 0,
    text: "class",
    sentence: "a video of {class}",
    weights,
    merges,
  } satisfies SuiteConfig;
  const run = async (
    levels: number,
    more: Partial<typeof config> = {},
    warnings: string[] = [],
  ) => {
    const tokenizer = blockTokenizer(5, 16, levels);
    const objective = fakeObjective(tokenizer, async (labels) =>
      new Int32Array(labels.length * 5 * 4 * 4 * 3).fill(1),
    );
    const base = await context({ device, batch: 3, tokenizer, objective });
    device.activate();
    return buildSuite({ ...config, ...more }, "clipsim").run({
      ...base,
      warn: (text) => void warnings.push(text),
    });
  };

  it("scores real, decoded and generated clips by cosines, under the name of what the file holds", async () => {
    const warnings: string[] = [];
    const scores = await run(4, {}, warnings);
    expect(scores.map(({ name }) => name)).toEqual([
      "clipsim/generation",
      "clipsim/reconstruction",
      "clipsim/real",
    ]);
    expect(scores.every(({ value }) => Math.abs(value) <= 1)).toBe(true);
    expect(new Set(scores.map(({ value }) => value)).size).toBe(3);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain("is not a ViT-B/32");
    expect(scores[0]!.protocol).toMatchObject({
      name: "clipsim:other",
      network: { image: 32, patch: 8, imageWidth: 64, imageDepth: 2, context: 16, embedding: 32 },
    });
    expect(scores[0]!.protocol["weights_sha256"]).toMatch(/^[0-9a-f]{64}$/);
    expect(await run(4)).toEqual(scores);
    // Finer blocks of colour come nearer to the clips' own value.
    const real = valueOf(scores, "clipsim/real");
    const gap = async (levels: number) =>
      Math.abs(valueOf(await run(levels), "clipsim/reconstruction") - real);
    expect(valueOf(await run(256), "clipsim/real")).toBe(real);
    expect(await gap(256)).toBeLessThan(await gap(2));
  });

  it("says what does not fit: merges of another vocabulary, files that are cut or are no CLIP", async () => {
    const few = join(folder, "few.txt");
    writeFileSync(few, mergeLines(100).join("\n"));
    await expect(run(4, { merges: few })).rejects.toThrow(
      /100 merges, CLIP's vocabulary has 48894/,
    );
    const small = join(folder, "small.safetensors");
    writeClip(small, 300);
    await expect(run(4, { weights: small })).rejects.toThrow(/makes 49408 tokens.*knows 300/);
    const other = join(folder, "other.safetensors");
    writeFileSync(other, encodeSafetensors({ tensors: new Map([random("x", [3], 1)]), metadata: {} })); // biome-ignore format: one call
    await expect(run(4, { weights: other })).rejects.toThrow(/CLIP/);
    await expect(run(4, { weights: join(folder, "absent") })).rejects.toThrow(/absent/);
  });
});

/** A VGGish an eighth as wide, by torchvggish's names. */
function vggishTensors(): Map<string, HostTensor> {
  const widths = [8, 16, 32, 32, 64, 64];
  let inputs = 1;
  const convolutions = [0, 3, 6, 8, 11, 13].flatMap((index, i) => {
    const made = [
      random(`features.${index}.weight`, [widths[i]!, inputs, 3, 3], Math.sqrt(6 / (9 * inputs))),
      random(`features.${index}.bias`, [widths[i]!], 0.05),
    ];
    inputs = widths[i]!;
    return made;
  });
  return new Map([
    ...convolutions,
    ...linear("embeddings.0", 96, 24 * 64),
    ...linear("embeddings.2", 96, 96),
    ...linear("embeddings.4", 128, 96),
  ]);
}

/** The tensors as `torch.save` writes a state; false, with the reason printed, without PyTorch. */
function savedByTorch(tensors: Map<string, HostTensor>, path: string): boolean {
  const python = process.env["TESSERA_TEST_PYTHON"] ?? "python3";
  const spec = [...tensors].map(([name, { shape }]) => ({ name, shape }));
  const data = Buffer.concat([...tensors.values()].map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength))); // biome-ignore format: one call
  writeFileSync(`${path}.raw`, data);
  const script = `
import json, sys, torch
spec, raw = json.loads(sys.argv[1]), bytearray(open(sys.argv[2] + ".raw", "rb").read())
state, at = {}, 0
for one in spec:
    count = 1
    for side in one["shape"]: count *= side
    state[one["name"]] = torch.frombuffer(raw, dtype=torch.float32, count=count, offset=at).reshape(one["shape"]).clone()
    at += 4 * count
torch.save(state, sys.argv[2])`;
  try {
    execFileSync(python, ["-c", script, JSON.stringify(spec), path], { stdio: "pipe" });
    return true;
  } catch (error) {
    console.warn(`not written by PyTorch: ${String((error as { stderr?: unknown }).stderr ?? error).trim().split("\n").at(-1)}`); // biome-ignore format: one call
    return false;
  }
}

/** Waveforms in `levels` steps, a token a sample of 1/100 s. */
function steppedSound(samples: number, levels: number): Tokenizer {
  const frames = samples / 160;
  const codes = (ids: tf.Tensor): tf.Tensor5D =>
    tf.sub(tf.mul(tf.div(tf.cast(ids, "float32"), levels - 1), 2), 1) as tf.Tensor5D;
  return {
    ...blockTokenizer(1, 4, levels),
    modality: "audio",
    scope: Scope.root(0),
    clip: { frames: 1, height: 1, width: 1, samples },
    grid: [frames, 1, 1],
    width: 160,
    encode(waves) {
      const rows = tf.reshape(waves, [waves.shape[0], frames, 1, 1, 160]) as tf.Tensor5D;
      const ids = tf.cast(
        tf.round(tf.mul(tf.div(tf.add(rows, 1), 2), levels - 1)),
        "int32",
      ) as tf.Tensor5D;
      return { ids, codes: codes(ids) };
    },
    lookup: codes,
    decode: (rows) => tf.reshape(rows, [rows.shape[0], samples, 1, 1, 1]) as tf.Tensor5D,
  };
}

describe("fad", () => {
  const tensors = vggishTensors();
  const path = join(folder, "vggish.safetensors");
  const torchPath = join(folder, "vggish-small.pth");
  let byTorch = false;
  beforeAll(() => {
    writeFileSync(path, encodeSafetensors({ tensors, metadata: {} }));
    byTorch = savedByTorch(tensors, torchPath);
  });
  const run = async (weights: string, tokenizer?: Tokenizer, warnings: string[] = []) => {
    const config = { type: "fad", split: "validation", clips: 12, seed: 0, weights } satisfies SuiteConfig; // biome-ignore format: one config
    const base = await context({
      device,
      batch: 4,
      ...(tokenizer && { tokenizer }),
      dataset: (split) => shapes(split, { frames: 17, fps: 8, audio: true, audio_rate: 16_000 }),
    });
    device.activate();
    return buildSuite(config, "fad").run({ ...base, warn: (text) => void warnings.push(text) });
  };

  it("scores what an audio tokenizer decodes, and real sound against real sound", async () => {
    const warnings: string[] = [];
    const samples = 16_000 * 2;
    const fine = await run(path, steppedSound(samples, 4096), warnings);
    const coarse = await run(path, steppedSound(samples, 16));
    expect(fine.map(({ name }) => name)).toEqual(["fad/reconstruction", "fad/real_floor"]);
    expect(warnings.join()).toContain("24 examples do not fill 128 feature dimensions");
    expect(warnings.join()).toContain("is not VGGish by its widths");
    expect(fine[0]!.protocol).toMatchObject({
      name: "fad:other",
      network: { convolutions: [8, 16, 32, 32, 64, 64], dense: [96, 96] },
    });
    expect(valueOf(fine, "fad/reconstruction")).toBeLessThan(valueOf(coarse, "fad/reconstruction"));
    expect(valueOf(fine, "fad/real_floor")).toBe(valueOf(coarse, "fad/real_floor"));
    expect(valueOf(fine, "fad/real_floor")).toBeGreaterThan(valueOf(fine, "fad/reconstruction"));
    // The same network as PyTorch writes it, where it is installed.
    const other = byTorch ? await run(torchPath, steppedSound(samples, 16)) : coarse;
    expect(other.map(({ value }) => value)).toEqual(coarse.map(({ value }) => value));
    const silent = await run(path);
    expect(silent.map(({ name }) => name)).toEqual(["fad/real_floor"]);
  });
});
