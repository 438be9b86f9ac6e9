/**
 * @file Opening a set of very many items from its index: seconds and memory of a fresh process.
 *
 *   npx tsx bench/index.ts [items]
 *
 * Items are members of tar archives, 10,000 each, as of WebDataset; `probed` keeps besides what was found in
 * each file. No media is needed: nothing is opened but the index.
 */

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Value } from "typebox/value";
import { openClips } from "../src/data/clip-set.ts";
import type { Candidate, Listing } from "../src/data/listing.ts";
import { lookKey, remember } from "../src/data/look.ts";
import { schema, type VideoSetConfig } from "../src/data/video-set.ts";

const [count = "1000000", folder, verify = "drawn"] = process.argv.slice(2);
const SHARD = 10_000;

function listing(path: string): Listing {
  const candidates = Array.from({ length: Number(count) }, (_, i): Candidate => {
    const shard = `clips-${String(Math.floor(i / SHARD)).padStart(6, "0")}.tar`;
    const first = (i % SHARD) * 400_000 + 512;
    return {
      source: { kind: "media", file: join(path, shard), span: [first, 399_000] },
      name: `${shard}/${String(i).padStart(9, "0")}`,
      size: 399_000,
      modified: 1_700_000_000_000,
      label: `class ${i % 700}`,
      captions: ["a caption of a clip, about as long as captions are"],
      split: i % 100 === 0 ? "validation" : "train",
    };
  });
  if (verify === "quick") {
    for (const [i, one] of candidates.entries()) {
      const keys = [0, 120, 240];
      remember(lookKey(one, { verify, missing_frames: 0 }), { frames: 300 + (i % 7), fps: 25, start: 0, seekable: true, keys, width: 340, height: 256, audio: true }); // biome-ignore format: one call
    }
  }
  return { candidates, missing: [], splitBy: "list", watched: [path] };
}

if (folder === undefined) {
  const path = mkdtempSync(join(tmpdir(), "tessera-index-"));
  writeFileSync(join(path, "note"), "");
  for (const way of ["drawn", "quick"]) {
    for (const what of ["made", "opened"]) {
      const args = [...process.execArgv, process.argv[1]!, count, path, way];
      const told = execFileSync(process.execPath, args, { encoding: "utf8" });
      process.stdout.write(`${count} items, verify ${way}, index ${what}: ${told}`);
    }
  }
  rmSync(path, { recursive: true });
} else {
  const index = join(tmpdir(), `${folder.split("/").at(-1)}.${verify}.index`);
  const was = statSync(index, { throwIfNoEntry: false }) !== undefined;
  const small = {
    frames: 16,
    height: 128,
    width: 128,
    workers: 0,
    verify,
    index,
    shuffle: "shards",
  };
  const config = Value.Default(schema, { type: "video-set", path: folder, layout: { type: "webdataset", shards: "*.tar" }, ...small }) as VideoSetConfig; // biome-ignore format: one value
  const begin = performance.now();
  const dataset = await openClips(
    config,
    { type: "webdataset", where: folder, list: () => ({ ...listing(folder), shards: Array.from({ length: Math.ceil(Number(count) / SHARD) }, (_, i) => i * SHARD) }), key: "bench", identity: "bench", validationFraction: 0.1, fps: 25 },
    "train",
    0,
  ); // biome-ignore format: one call
  const seconds = ((performance.now() - begin) / 1000).toFixed(1);
  const { rss } = process.memoryUsage();
  const peak = process.resourceUsage().maxRSS * 1024;
  const mib = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;
  process.stdout.write(`${seconds} s, ${dataset.size} clips, ${mib(rss)} held, ${mib(peak)} at most, file of ${mib(statSync(index).size)}\n`); // biome-ignore format: one call
  if (was) {
    rmSync(index);
  }
}
