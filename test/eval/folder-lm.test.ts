/** @file A frozen language model from a Hugging Face folder: written here with our own ONNX writer, read back. */

import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, it } from "vitest";
import { openFolderLm, readRow, textOf } from "../../src/eval/in-context/folder-lm.ts";
import { WordVocabulary } from "../../src/models/text-lm.ts";
import { buildTransformer } from "../../src/models/transformer.ts";
import { Scope } from "../../src/models/scope.ts";
import { GraphBuilder } from "../../src/runtime/onnx/builder.ts";
import { exportOnnx } from "../../src/runtime/onnx/export.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { type Bpe, openBpe, trainBpe } from "../../src/tokenizers/text/bpe.ts";

const lines = ["red a big : circle", "blue the a : square", "answer with circle or square"];
const vocabulary = new WordVocabulary(lines.flatMap((line) => line.match(/[a-z]+/g)!));
/** Merges enough for some words to be one token and others several. */
const bpe: Bpe = openBpe(trainBpe([...lines, ...lines, " red red", " circle circle"], 275));
const V = bpe.size;
const context = 48;

/** A folder in Hugging Face's layout. */
function folderOf(model: Uint8Array | undefined, more: { [file: string]: object } = {}): string {
  const folder = mkdtempSync(join(tmpdir(), "tessera-lm-"));
  const { tokens, merges } = bpe.vocabulary;
  const tokenizer = {
    model: {
      type: "BPE",
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.map((pair) => pair.join(" ")),
    },
    pre_tokenizer: { type: "ByteLevel" },
    added_tokens: [],
  };
  mkdirSync(join(folder, "onnx"));
  for (const [file, value] of Object.entries({ "tokenizer.json": tokenizer, ...more })) {
    writeFileSync(join(folder, file), JSON.stringify(value));
  }
  if (model) {
    writeFileSync(join(folder, "onnx", "model.onnx"), model);
  }
  return folder;
}

const random = new Random(0, "test/folder-lm");
const table = random.normals(V * V);
const head = random.normals(V * V);

/** A model of running sums of embeddings, as ONNX with or without a cache of them. */
function summingModel(cached: boolean): Uint8Array {
  const g = new GraphBuilder("summing");
  const ids = g.input("input_ids", "int64", [1, "n"]);
  g.input("attention_mask", "int64", [1, "t"]);
  const past = cached ? g.input("past_key_values.0.key", "float32", [1, 1, "p", V]) : undefined;
  const embedded = g.op("Gather", [g.constant("float32", [V, V], table), ids], { axis: 0 }); // [1, n, V]
  const keys = g.op("Unsqueeze", [embedded, g.ints([1])]); // [1, 1, n, V]
  const all = past
    ? g.op("Concat", [past, keys], { axis: 2 }, "present.0.key")
    : g.op("Identity", [keys]);
  const sums = g.op("CumSum", [all, g.constant("int64", [], BigInt64Array.of(2n))]);
  const count = g.op("Slice", [g.op("Shape", [ids]), g.ints([1]), g.ints([2])]); // [n]
  const last = g.op("Slice", [sums, g.op("Neg", [count]), g.ints([2 ** 31 - 1]), g.ints([2])]);
  const flat = g.op("Squeeze", [last, g.ints([1])]); // [1, n, V]
  g.op("MatMul", [flat, g.constant("float32", [V, V], head)], {}, "logits");
  g.output("logits", "float32", [1, "n", V]);
  if (past) {
    g.output("present.0.key", "float32", [1, 1, "t", V]);
  }
  return g.finish();
}

/** The same in TypeScript: logits of the last of some tokens. */
function summed(tokens: readonly number[]): Float32Array {
  const sum = new Float64Array(V);
  for (const id of tokens) {
    for (let k = 0; k < V; k++) {
      sum[k]! += table[id * V + k]!;
    }
  }
  return Float32Array.from({ length: V }, (_, j) => {
    let total = 0;
    for (let k = 0; k < V; k++) {
      total += sum[k]! * head[k * V + j]!;
    }
    return total;
  });
}

const prompt = vocabulary.encode("answer with circle or square\nred a big : circle\nblue a :");
const answers = ["circle", "square\n", "big red"].map((text) => vocabulary.encode(text));

describe("words as text", () => {
  it("have blanks between them, and none at the beginning of a line", () => {
    const text = textOf(prompt, vocabulary, true);
    expect(text).toBe("answer with circle or square\nred a big : circle\nblue a :");
    expect(textOf(answers[0]!, vocabulary, false)).toBe(" circle");
    // Some words are one token and some are several, so both cases are met below.
    const lengths = vocabulary.words.slice(3).map((word) => bpe.encode(` ${word}`).length);
    expect(lengths).toContain(1);
    expect(Math.max(...lengths)).toBeGreaterThan(1);
  });
});

describe.each([
  ["with a cache", true],
  ["without a cache", false],
])("a model %s", (_, cached) => {
  it("gives answers the probability of their tokens", async () => {
    const lm = await openFolderLm(folderOf(summingModel(cached)), vocabulary);
    const verdicts = await lm.judge(answers.map((answer) => ({ prompt, answer })));
    for (const [i, answer] of answers.entries()) {
      const asked = [...bpe.encode(textOf(prompt, vocabulary, true))];
      const tail = [...bpe.encode(textOf(answer, vocabulary, false))];
      const rows = tail.map((id, k) => readRow(summed([...asked, ...tail.slice(0, k)]), id));
      const expected = rows.reduce((sum, { logProbability }) => sum + logProbability, 0);
      expect(verdicts[i]!.logProbability / expected).toBeCloseTo(1, 3);
      expect(verdicts[i]!.greedy).toBe(rows.every(({ best }, k) => best === tail[k]));
    }
    lm.dispose();
  });

  it("writes what it finds most probable, and words it does not know count as none", async () => {
    const lm = await openFolderLm(folderOf(summingModel(cached)), vocabulary);
    const [written] = await lm.write([{ prompt, count: 3 }]);
    const tokens = [...bpe.encode(textOf(prompt, vocabulary, true))];
    const begin = tokens.length;
    for (let i = 0; i < 25; i++) {
      tokens.push(readRow(summed(tokens), 0).best);
    }
    const words = bpe.decode(tokens.slice(begin)).match(/\n|[^\s]+/g) ?? [];
    const ids = [0, 1, 2].map((i) => vocabulary.idOf(words[i] ?? "") ?? 0);
    expect(written).toEqual(ids);
    lm.dispose();
  });
});

describe("a transformer of ours, exported", () => {
  let folder: string;
  let logitsOf: (tokens: readonly number[]) => Float32Array;

  beforeAll(async () => {
    const device = await openDevice({ type: "cpu", engine: "onnx", threads: 1 });
    const sizes = { type: "transformer", width: 16, depth: 2, heads: 2, mlp_ratio: 2 } as const;
    const build = (scope: Scope) =>
      buildTransformer(
        { ...sizes, positions: "learned", tie_weights: true },
        { grid: [1, 1, context], factors: [V], classes: 0 },
        { mask: false },
        scope,
      );
    const scope = Scope.root(1);
    const network = build(scope);
    const forward = (ids: tf.Tensor): tf.Tensor => {
      const [logits] = network.causal(
        tf.reshape<tf.Rank.R3>(ids, [1, context, 1]),
        tf.zeros<tf.Rank.R1>([1], "int32"),
      );
      // `causal` gives each place the logits of its own token: one further is the next token's.
      return tf.reshape(logits!, [1, context, V]);
    };
    // A causal language model's row i is of token i + 1: the sequence is moved by one.
    const model = exportOnnx(
      "lm",
      ({ ids }) => ({
        logits: tf.slice(
          tf.pad(forward(ids!), [
            [0, 0],
            [0, 1],
            [0, 0],
          ]),
          [0, 1, 0],
          [1, context, V],
        ),
      }),
      [{ name: "ids", shape: [1, context], dtype: "int32" }],
    );
    folder = folderOf(model, { "config.json": { n_positions: context - 1 } });
    const run = device.compile("rows", ({ ids }) => ({ rows: forward(ids!) }));
    const values = async (tokens: readonly number[]) => {
      const ids = new Int32Array(context);
      ids.set(tokens);
      return (await run({ ids: { dtype: "int32", shape: [1, context], data: ids } }))["rows"]!;
    };
    const tokens = [
      ...bpe.encode(textOf(prompt, vocabulary, true)),
      ...bpe.encode(textOf(answers[1]!, vocabulary, false)),
    ];
    const rows = (await values(tokens)).data as Float32Array;
    logitsOf = (before) => rows.subarray(before.length * V, (before.length + 1) * V);
  });

  it("judges as the network itself does", async () => {
    const lm = await openFolderLm(folder, vocabulary);
    const [verdict] = await lm.judge([{ prompt, answer: answers[1]! }]);
    const asked = [...bpe.encode(textOf(prompt, vocabulary, true))];
    const tail = [...bpe.encode(textOf(answers[1]!, vocabulary, false))];
    const expected = tail.reduce(
      (sum, id, k) => sum + readRow(logitsOf([...asked, ...tail.slice(0, k)]), id).logProbability,
      0,
    );
    expect(verdict!.logProbability).toBeCloseTo(expected, 3);
    expect(lm.fingerprint).toMatch(/^[0-9a-f]{16}$/);
    lm.dispose();
  });

  it("says when a prompt is longer than the model reads", async () => {
    const lm = await openFolderLm(folder, vocabulary);
    const long = vocabulary.encode("circle ".repeat(60));
    await expect(lm.judge([{ prompt: long, answer: answers[0]! }])).rejects.toThrow(
      `config.json allows ${context - 1}`,
    );
    lm.dispose();
  });
});

describe("a folder that is not one", () => {
  const model = () => summingModel(true);
  const refusal = (folder: string) =>
    openFolderLm(folder, vocabulary).catch((error: unknown) => (error as Error).message);

  it("is told by one error", async () => {
    expect(await refusal(join(tmpdir(), "tessera-no-such-folder"))).toContain(
      "has no tokenizer.json",
    );
    expect(await refusal(folderOf(undefined))).toContain("has no onnx/model.onnx");
    expect(await refusal(folderOf(Uint8Array.of(1, 2, 3)))).toContain("ONNX Runtime cannot open");
    expect(
      await refusal(
        folderOf(model(), { "tokenizer.json": { model: { type: "Unigram", vocab: [] } } }),
      ),
    ).toContain("expected BPE");
    const g = new GraphBuilder("other");
    g.op("Identity", [g.input("pixels", "float32", [1, 3])], {}, "a");
    g.op("Identity", ["pixels"], {}, "b");
    g.output("a", "float32", [1, 3]);
    g.output("b", "float32", [1, 3]);
    expect(await refusal(folderOf(g.finish()))).toContain('no output "logits"');
  });
});
