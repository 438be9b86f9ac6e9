/**
 * @file How fast a token store feeds ids: batches of random rows, as a transformer's training draws
 * them. Run with `npx tsx bench/tokens.ts [clips]`. Figures are bytes of 32-bit ids handed over.
 */

import { mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FORMAT, shardPath, type StoreInfo, writeShard } from "../src/data/token-store/format.ts";
import { TokenStore } from "../src/data/token-store/reader.ts";
import { Random } from "../src/runtime/random.ts";
import { writeFileAtomic } from "../src/runtime/files.ts";

/** Tokenizers by their latent grid and sub-vocabularies. */
const cases = {
  "MAGVIT: 4×16×16 of 1024": { grid: [4, 16, 16], factors: [1024] },
  "MAGVIT-v2: 5×16×16 of 2^18 as two of 512": { grid: [5, 16, 16], factors: [512, 512] },
  "MAGVIT-v2: 5×16×16 of 2^18 as one": { grid: [5, 16, 16], factors: [2 ** 18] },
} as const;

const clips = Number(process.argv[2] ?? 20_000);
const BATCH = 64;

function writeStore(path: string, grid: readonly number[], factors: readonly number[]): void {
  const length = grid.reduce((product, n) => product * n, factors.length);
  const info: StoreInfo = {
    format: FORMAT,
    tokenizer: { hash: "bench", grid, factors, clip: { frames: 17, height: 128, width: 128 } },
    bits: Math.ceil(Math.log2(factors[0]!)),
    length,
    shard_clips: 4096,
    classes: [],
    fps: 25,
    splits: {
      train: { clips, visits: 1, fingerprint: "" },
      validation: { clips: 0, visits: 1, fingerprint: "" },
    },
  };
  mkdirSync(join(path, "train"), { recursive: true });
  writeFileAtomic(join(path, "store.json"), JSON.stringify(info));
  const random = new Random(0, "bench");
  const ids = Int32Array.from({ length: 4096 * length }, () => random.int(factors[0]!));
  for (let first = 0, shard = 0; first < clips; first += 4096, shard++) {
    const size = Math.min(4096, clips - first);
    const names = Array.from({ length: size }, (_, i) => `clip ${first + i}`);
    const labels = new Int32Array(size);
    writeShard(shardPath(path, "train", shard), info, { size, ids, labels, clips: names, captions: names }); // biome-ignore format: one call
  }
}

function measure(store: TokenStore): number {
  const order = new Random(1, "bench/order").permutation(store.size);
  let [bytes, check] = [0, 0];
  const begin = performance.now();
  while (performance.now() - begin < 3000) {
    for (
      let from = 0;
      from + BATCH <= order.length && performance.now() - begin < 3000;
      from += BATCH
    ) {
      const ids = store.rows(order.subarray(from, from + BATCH));
      bytes += ids.byteLength;
      check += ids[from % ids.length]!;
    }
  }
  if (Number.isNaN(check)) {
    throw new Error("not reached; keeps the ids alive");
  }
  return bytes / (performance.now() - begin) / 1e6;
}

const root = mkdtempSync(join(tmpdir(), "tessera-bench-"));
try {
  for (const [name, { grid, factors }] of Object.entries(cases)) {
    const path = join(root, String(factors[0]));
    writeStore(path, grid, factors);
    const size = statSync(shardPath(path, "train", 0)).size;
    for (const [where, memory] of [
      ["memory", 2 ** 33],
      ["files", 0],
    ] as const) {
      const store = new TokenStore(path, "train", { memory });
      measure(store);
      const rate = measure(store);
      process.stdout.write(`${name}; from ${where}: ${rate.toFixed(2)} GB/s of ids, shard of ${(size / 2 ** 20).toFixed(1)} MiB\n`); // biome-ignore format: one call
      store.close();
    }
    rmSync(path, { recursive: true });
  }
} finally {
  rmSync(root, { recursive: true, force: true });
}
