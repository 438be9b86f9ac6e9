/** @file Text as a language model reads it: byte-pair encoding, our own encoder, encoders from a folder. */

import { mkdirSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import { afterAll, describe, expect, it } from "vitest";
import { generateTask } from "../../src/cli/generate-task.ts";
import { loadConfig } from "../../src/config/resolve.ts";
import { Scope } from "../../src/models/scope.ts";
import { buildTextEncoder } from "../../src/models/text-encoder.ts";
import { vectorTokenizer } from "../../src/objectives/multimodal/text.ts";
import { encodeModel } from "../../src/runtime/onnx/model.ts";
import { openHuggingFaceEncoder } from "../../src/tokenizers/text/huggingface.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { openBpe, trainBpe } from "../../src/tokenizers/text/bpe.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";
import { openRun } from "../../src/trainers/open-run.ts";
import { runExperiment } from "../../src/trainers/run.ts";
import { sym, useReference } from "./helpers.ts";

const tiny = fileURLToPath(new URL("../trainers/tiny.yaml", import.meta.url));
const output = mkdtempSync(join(tmpdir(), "tessera-text-"));
const captions = ["a large red circle moves left", "a large blue square moves right", "a ring"];
const WIDTH = 12;

/** tokenizer.json of a byte-level vocabulary, as Hugging Face writes it. */
function tokenizerJson(): string {
  const { tokens, merges } = trainBpe(captions, 300);
  return JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }, // biome-ignore format: one object
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.map(([a, b]) => `${a} ${b}`),
    },
  });
}

/** A folder as transformers reads T5's encoder from: its network looks each token up in a table. */
function encoderFolder(): { readonly folder: string; readonly table: Float32Array } {
  const folder = join(output, "t5-tiny");
  mkdirSync(join(folder, "onnx"), { recursive: true });
  const table = Float32Array.from(sym(5, 300 * WIDTH));
  const model = encodeModel({
    name: "encoder",
    nodes: [
      {
        op: "Gather",
        domain: "",
        name: "gather",
        inputs: ["table", "input_ids"],
        outputs: ["rows"],
        attributes: {},
      },
      {
        op: "Cast",
        domain: "",
        name: "cast",
        inputs: ["attention_mask"],
        outputs: ["mask"],
        attributes: { to: { kind: "int", value: 1 } },
      },
      {
        op: "Unsqueeze",
        domain: "",
        name: "column",
        inputs: ["mask", "last"],
        outputs: ["column"],
        attributes: {},
      },
      {
        op: "Mul",
        domain: "",
        name: "mul",
        inputs: ["rows", "column"],
        outputs: ["last_hidden_state"],
        attributes: {},
      },
    ],
    inputs: [
      { name: "input_ids", type: "int64", shape: ["batch", "sequence"] },
      { name: "attention_mask", type: "int64", shape: ["batch", "sequence"] },
    ],
    outputs: [{ name: "last_hidden_state", type: "float32", shape: ["batch", "sequence", WIDTH] }],
    initializers: [
      { name: "table", type: "float32", shape: [300, WIDTH], bytes: new Uint8Array(table.buffer) },
      {
        name: "last",
        type: "int64",
        shape: [1],
        bytes: new Uint8Array(BigInt64Array.of(2n).buffer),
      },
    ],
  });
  writeFileSync(join(folder, "onnx", "encoder_model.onnx"), model);
  const config = { model_type: "t5", architectures: ["T5EncoderModel"], d_model: WIDTH, num_layers: 1, num_heads: 1, d_kv: WIDTH, vocab_size: 300, is_encoder_decoder: true }; // biome-ignore format: one object
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  writeFileSync(join(folder, "tokenizer.json"), tokenizerJson());
  const tokenizerConfig = { tokenizer_class: "PreTrainedTokenizerFast", model_max_length: 512 };
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(tokenizerConfig));
  return { folder, table };
}

const installed = (): boolean => {
  try {
    createRequire(import.meta.url).resolve("@huggingface/transformers");
    return true;
  } catch {
    return false;
  }
};

/** A tiny run that reads text as told, then makes a clip from a text with words it has never seen. */
async function runAndGenerate(text: string, name: string): Promise<string> {
  const objective = `objective={type: multimodal, text_length: 140, text: ${text}, tasks: [{task: T2V}], sampling: {guidance: 2}}`;
  const overrides = [
    `output=${output}`,
    `name=${name}`,
    objective,
    "trainer.samples.count=1",
    "trainer.tokenizer.steps=2",
    "trainer.transformer.steps=2",
    "evals={}",
  ];
  const { dir } = await runExperiment(
    loadConfig<Experiment>({ file: tiny, overrides, schema: experimentSchema, checks }),
    { output: { terminal: false, line: () => undefined } },
  );
  const run = await openRun(dir);
  const out = join(output, `made-${name}`);
  try {
    const common = { task: "T2V", chain: [], continue: 0, condition: [], audio: [], n: 1, seed: 3, format: "mkv", fps: 8, out, labels: Int32Array.of(-1) } as const; // biome-ignore format: one object
    await generateTask(run, { ...common, text: ["a mauve pentagon"] });
  } finally {
    await run.close();
  }
  expect(readdirSync(out)).toEqual(["seed3-000-T2V.mkv"]);
  return dir;
}

afterAll(() => tf.disposeVariables());

describe("our own text encoder", () => {
  const options = { width: 16, depth: 1, heads: 2, vocabulary: 9, length: 6 };
  const ids = (values: number[]): tf.Tensor2D => tf.tensor2d(values, [1, 6], "int32");

  it("reads both directions, and nothing behind a text's end", async () => {
    await useReference();
    const encoder = buildTextEncoder(options, Scope.root(1));
    const of = (values: number[]) => encoder.vectors(ids(values)).dataSync();
    const [a, b] = [of([1, 2, 3, 4, -1, -1]), of([1, 2, 3, 5, -1, -1])];
    // The last token changes the first one's vector.
    expect(Math.abs(a[0]! - b[0]!)).toBeGreaterThan(1e-6);
    // What stands behind the end has no influence: the mean over a batch of two equals each alone.
    const both = encoder.vectors(tf.tensor2d([1, 2, 3, 4, -1, -1, 6, -1, -1, -1, -1, -1], [2, 6], "int32")); // biome-ignore format: one call
    expect(both.shape).toEqual([2, 6, 16]);
    const one = of([6, -1, -1, -1, -1, -1]);
    const second = both.dataSync().slice(6 * 16, 7 * 16);
    second.forEach((value, i) => expect(value).toBeCloseTo(one[i]!, 5));
  });

  it("learns to fill gaps in", async () => {
    const device = await openDevice({ type: "cpu", threads: 1 });
    const scope = Scope.root(2);
    const encoder = buildTextEncoder(options, scope);
    const parameters = [...scope.trainable().values()];
    const step = device.compile("step", (given) => {
      const { value, grads } = tf.variableGrads(
        () => encoder.loss(given["ids"] as tf.Tensor2D, given["masked"] as tf.Tensor2D),
        parameters,
      );
      for (const p of parameters) {
        p.assign(tf.sub(p, tf.mul(grads[p.name]!, 0.3)));
      }
      return { loss: value };
    });
    // Two texts: the third token follows from the others.
    const texts = Int32Array.of(0, 1, 2, 3, -1, -1, 4, 5, 6, 7, -1, -1);
    const masked = Float32Array.of(0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0);
    const losses: number[] = [];
    for (let i = 0; i < 60; i++) {
      const { loss } = await step({
        ids: { dtype: "int32", shape: [2, 6], data: texts },
        masked: { dtype: "float32", shape: [2, 6], data: masked },
      });
      losses.push(loss!.data[0]!);
    }
    device.dispose();
    expect(losses[0]!).toBeGreaterThan(1.5);
    expect(losses.at(-1)!).toBeLessThan(0.1);
  });
});

describe("texts as vectors", () => {
  it("are embedded once, and standardised", async () => {
    const seen: string[] = [];
    const text = vectorTokenizer(4, () =>
      Promise.resolve({
        width: 4,
        embed(one: string) {
          seen.push(one);
          return Promise.resolve(
            Float32Array.from({ length: 4 * one.length }, (_, i) => 1000 + 50 * ((i * 7) % 5)),
          );
        },
      }),
    );
    expect(() => text.encode("ab", 4)).toThrow(/not been embedded/);
    await text.vectors.prepare(["ab", "c", "ab"]);
    await text.vectors.prepare(["c"]);
    expect(seen).toEqual(["ab", "c"]);
    expect([...text.encode("c", 4)]).toEqual([2]);
    expect(text.decode(text.encode("ab", 4))).toBe("ab");
    const rows = text.vectors.rows([2, -1]);
    const own = [...rows.subarray(0, 4)];
    expect(own.reduce((a, b) => a + b, 0)).toBeCloseTo(0, 5);
    expect(own.reduce((a, b) => a + b * b, 0) / 4).toBeCloseTo(1, 5);
    expect([...rows.subarray(4)]).toEqual([0, 0, 0, 0]);
    expect(() => text.encode("ab", 1)).toThrow(/2 tokens, the model takes at most 1/);
  });
});

describe("a run reads text", () => {
  it("as byte-pair encoding learned from captions, which any text has", async () => {
    const dir = await runAndGenerate("{as: bpe, size: 280}", "bpe");
    expect(readdirSync(join(dir, "modalities"))).toEqual(["bpe.json"]);
  }, 60_000);

  it("as tokens of a tokenizer.json", async () => {
    const file = join(output, "tokenizer.json");
    writeFileSync(file, tokenizerJson());
    await runAndGenerate(`{as: file, file: "${file}"}`, "file");
    await expect(runAndGenerate("{as: file}", "none")).rejects.toThrow(
      /no tokenizer\.json is named/,
    );
  }, 60_000);

  it("as vectors of an encoder of its own, which it trains and keeps", async () => {
    const dir = await runAndGenerate("{as: encoder, width: 16, depth: 1, steps: 4}", "own");
    expect(readdirSync(join(dir, "modalities")).toSorted()).toEqual([
      "bpe.json",
      "text-encoder.safetensors",
    ]);
  }, 60_000);

  it.skipIf(!installed())(
    "as vectors of an encoder in a folder (needs @huggingface/transformers)",
    async () => {
      const { folder, table } = encoderFolder();
      const encoder = await openHuggingFaceEncoder(folder, 30);
      const made = await encoder.embed("a ring");
      // The package's own byte-pair encoding and ours cut the text alike.
      const ids = openBpe(trainBpe(captions, 300)).encode("a ring");
      const expected = Array.from(ids, (id) => [
        ...table.subarray(id * WIDTH, (id + 1) * WIDTH),
      ]).flat();
      expect([...made].map((v) => v.toFixed(5))).toEqual(expected.map((v) => v.toFixed(5)));
      await runAndGenerate(`{as: encoder, folder: "${folder}"}`, "folder");
    },
    60_000,
  );

  it("says what a folder lacks", async () => {
    await expect(openHuggingFaceEncoder(join(output, "nothing"), 8)).rejects.toThrow(
      /has no config\.json/,
    );
  });

  it.skipIf(installed())("says what to install where the package is absent", async () => {
    const { folder } = encoderFolder();
    await expect(openHuggingFaceEncoder(folder, 8)).rejects.toThrow(
      /need the package @huggingface\/transformers/,
    );
  });
});
