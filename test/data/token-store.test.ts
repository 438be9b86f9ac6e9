/** @file The token store: bits, random rows, refusals, resuming, and training from it. */

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { tableFromIPC } from "apache-arrow";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { UserError } from "../../src/config/errors.ts";
import { loadConfig } from "../../src/config/resolve.ts";
import { bitsFor, pack, unpack, wordsFor } from "../../src/data/token-store/bits.ts";
import {
  FORMAT,
  readShard,
  shardPath,
  type StoreInfo,
  writeShard,
} from "../../src/data/token-store/format.ts";
import { TokenStore } from "../../src/data/token-store/reader.ts";
import { writeFileAtomic } from "../../src/runtime/files.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";
import { openRun } from "../../src/trainers/open-run.ts";
import { runExperiment } from "../../src/trainers/run.ts";
import { StopRequest } from "../../src/trainers/signals.ts";
import { tokenize } from "../../src/trainers/tokenize.ts";
import { temporaryFolder } from "./support.ts";

const root = temporaryFolder("store");

describe("bits", () => {
  test("what is packed is what is unpacked, for every width and length", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 24 }).chain((bits) =>
          fc.tuple(
            fc.constant(bits),
            fc.array(fc.integer({ min: 0, max: 2 ** bits - 1 }), {
              minLength: 1,
              maxLength: 150,
            }),
          ),
        ),
        ([bits, ids]) => {
          const words = new Uint32Array(wordsFor(ids.length, bits) + 2);
          pack(ids, 0, ids.length, bits, words, 1);
          expect([words[0], words.at(-1)]).toEqual([0, 0]); // neighbours are not touched
          const out = new Int32Array(ids.length + 1);
          unpack(words, 1, ids.length, bits, out, 1);
          expect(Array.from(out)).toEqual([0, ...ids]);
        },
      ),
    );
  });

  test("the width is the vocabulary's, and ids beyond it are refused", () => {
    expect([2, 3, 512, 513, 1024, 2 ** 18].map(bitsFor)).toEqual([1, 2, 9, 10, 10, 18]);
    expect(() => pack([512], 0, 1, 9, new Uint32Array(2), 0)).toThrow(/512 does not fit 9 bits/);
  });
});

/** A store of made-up ids: id j of clip i is (7i + j) mod 1000. */
function fakeStore(path: string, clips: number, shardClips: number, length = 37): StoreInfo {
  const info: StoreInfo = {
    format: FORMAT,
    tokenizer: { hash: "x", grid: [1, 1, length], factors: [1000], clip: { frames: 1, height: 8, width: 8 } }, // biome-ignore format: one value
    bits: 10,
    length,
    shard_clips: shardClips,
    classes: ["a", "b"],
    fps: 8,
    splits: {
      train: { clips, visits: 1, fingerprint: "t" },
      validation: { clips: 0, visits: 1, fingerprint: "v" },
    },
  };
  writeFileAtomic(join(path, "store.json"), JSON.stringify(info));
  for (let first = 0, shard = 0; first < clips; first += shardClips, shard++) {
    const size = Math.min(shardClips, clips - first);
    mkdirSync(join(path, "train"), { recursive: true });
    writeShard(shardPath(path, "train", shard), info, {
      size,
      ids: Int32Array.from({ length: size * length }, (_, k) => (7 * (first + Math.floor(k / length)) + (k % length)) % 1000), // biome-ignore format: one call
      labels: Int32Array.from({ length: size }, (_, i) => (first + i) % 2),
      clips: Array.from({ length: size }, (_, i) => `clip ${first + i}@0-16`),
      captions: Array.from({ length: size }, () => "走る"),
    });
  }
  return info;
}

describe("store", () => {
  test("rows at random, from memory and from files, are the rows that were written", () => {
    const path = join(root.path, "fake");
    const { length } = fakeStore(path, 50, 16);
    for (const memory of [2 ** 30, 0]) {
      const store = new TokenStore(path, "train", { memory });
      const rows = [49, 0, 15, 16, 16, 31, 48];
      const wanted = rows.flatMap((row) => Array.from({ length }, (_, j) => (7 * row + j) % 1000));
      expect(Array.from(store.rows(rows))).toEqual(wanted);
      expect(Array.from(store.labels)).toEqual(Array.from({ length: 50 }, (_, i) => i % 2));
      expect(store.texts().clips[17]).toBe("clip 17@0-16");
      store.close();
    }
    const { metadata, captions } = readShard(shardPath(path, "train", 3));
    expect([metadata.get("tokenizer"), metadata.get("bits"), captions[0]]).toEqual(["x", "10", "走る"]); // biome-ignore format: one call
    // Any Arrow reader opens it, and 37 ids of 10 bits take 48 bytes.
    const table = tableFromIPC(readFileSync(shardPath(path, "train", 0)));
    expect(table.getChild("ids")!.type.toString()).toBe("FixedSizeBinary[48]");
  });

  test("says which shards are missing, and where a file ends early", () => {
    const path = join(root.path, "holes");
    fakeStore(path, 50, 16);
    rmSync(shardPath(path, "train", 2));
    expect(() => new TokenStore(path, "train")).toThrow(/1 of 4 shards of the train split/);
    expect(() => new TokenStore(root.path, "train")).toThrow(UserError);
  });
});

const tiny = new URL("../trainers/tiny.yaml", import.meta.url).pathname;
function load(...overrides: string[]) {
  return loadConfig<Experiment>({
    file: tiny,
    overrides: [
      `output=${root.path}/runs`,
      "evals={}",
      "trainer.samples.count=0",
      "trainer.tokenizer.steps=2",
      "trainer.transformer.steps=4",
      ...overrides,
    ],
    schema: experimentSchema,
    checks,
  });
}
const quiet = { output: { terminal: false, line: () => undefined } };

/** The transformer's lines. */
const metricsOf = (dir: string): string[] =>
  readFileSync(join(dir, "metrics.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .filter((line) => line.includes('"transformer"'));

function filesOf(path: string): { [name: string]: string } {
  return Object.fromEntries(
    readdirSync(path, { recursive: true, encoding: "utf8" })
      .filter((name) => statSync(join(path, name)).isFile())
      .sort()
      .map((name) => [name, readFileSync(join(path, name)).toString("base64")]),
  );
}

describe("from a run", () => {
  test("parts, interruptions and one process make the same store; a transformer learns from it as from its clips", async () => {
    const { dir } = await runExperiment(load(), quiet);
    const make = async (name: string, part: { index: number; count: number }, stopAfter = 0) => {
      const store = join(root.path, name);
      const run = await openRun(dir, { tokenizerOnly: true });
      const stop = new StopRequest();
      let made = 0;
      try {
        const options = { store, shardClips: 10, visits: 1, batch: 8, part };
        return await tokenize(run, options, stop, () => {
          made += 1;
          if (made === stopAfter) {
            stop.request("SIGTERM");
          }
        });
      } finally {
        await run.close();
      }
    };
    expect(await make("one", { index: 0, count: 1 })).toBe(true);
    expect(await make("two", { index: 1, count: 2 })).toBe(false);
    expect(await make("two", { index: 0, count: 2 })).toBe(true);
    expect(filesOf(join(root.path, "two"))).toEqual(filesOf(join(root.path, "one")));
    await expect(make("three", { index: 0, count: 1 }, 2)).rejects.toThrow(/SIGTERM/);
    expect(await make("three", { index: 0, count: 1 })).toBe(true);
    expect(filesOf(join(root.path, "three"))).toEqual(filesOf(join(root.path, "one")));

    // The same tokens in the same order: the same metrics to the last digit, without any clip.
    const store = join(root.path, "one");
    const fromStore = load(`trainer.tokens.store=${store}`, "dataset.workers=0");
    const second = await runExperiment(fromStore, quiet);
    expect(metricsOf(second.dir)).toEqual(metricsOf(dir));

    // Another tokenizer is another store.
    const other = await runExperiment(load("seed=5", "~model", "~objective"), quiet);
    const run = await openRun(other.dir, { tokenizerOnly: true });
    const options = { store, shardClips: 10, visits: 1, batch: 8, part: { index: 0, count: 1 } };
    await expect(tokenize(run, options, new StopRequest(), () => undefined)).rejects.toThrow(/tokens of another tokenizer/); // biome-ignore format: one call
    await run.close();
    const changed = load(`trainer.tokens.store=${store}`, "tokenizer.l2_weight=0.5");
    await expect(runExperiment(changed, quiet)).rejects.toThrow(/made by another tokenizer/);
  });

  const FP = "objective.tasks=[{task: FP}, {task: IPC, weight: 2}, {task: CG}]";
  const multimodal =
    "objective={type: multimodal, text_length: 30, audio: {window: 256, codes: 8, fit_clips: 4}, " +
    "tasks: [{task: T2AV}, {task: IP}, {task: ST}]}";
  test.each([
    ["tasks", [FP, "objective.conditioning=commit"], ["FP", "IPC"], "objective.condition_frames=2"],
    ["words and sound", [multimodal, "dataset.audio_rate=4000"], ["IPC", "audio", "flow"], "objective.audio.codes=16"], // biome-ignore format: one row
  ] as const)("%s: learned from a store as from clips", async (name, overrides, beside, other) => {
    const { dir } = await runExperiment(load(...overrides), quiet);
    const store = join(root.path, `with ${name}`);
    const run = await openRun(dir, { tokenizerOnly: true });
    const { objective } = run.config;
    const options = { store, shardClips: 20, visits: 1, batch: 8, part: { index: 0, count: 1 }, objective }; // biome-ignore format: one value
    expect(await tokenize(run, options, new StopRequest(), () => undefined)).toBe(true);
    await run.close();
    const folders = ["", ...beside.map((one) => `.${one}`)];
    for (const split of ["train", "validation"]) {
      expect(readdirSync(store).filter((one) => one.startsWith(split)).sort()).toEqual(folders.map((one) => `${split}${one}`).sort()); // biome-ignore format: one call
    }
    const fromStore = [...overrides, `trainer.tokens.store=${store}`, "dataset.workers=0"];
    const second = await runExperiment(load(...fromStore), quiet);
    expect(metricsOf(second.dir)).toEqual(metricsOf(dir));
    expect(existsSync(join(second.dir, "tokens"))).toBe(false);
    await expect(runExperiment(load(...fromStore, other), quiet)).rejects.toThrow(UserError);
  });
});
