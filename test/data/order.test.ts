/**
 * @file One order and the same bytes of real files: for any number of workers, for one rank and for
 * four, and after a resume in mid-epoch; and sets that are read shard by shard. The index of a set,
 * which opens it without walking.
 */

import { mkdirSync, readFileSync, rmSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { Value } from "typebox/value";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Dataset } from "../../src/data/dataset.ts";
import type { LayoutConfig } from "../../src/data/layouts/registry.ts";
import { type Batch, Loader } from "../../src/data/loader.ts";
import { open, schema, type VideoSetConfig } from "../../src/data/video-set.ts";
import { checkDataset } from "../../src/data/check.ts";
import { inspectDataset } from "../../src/data/inspect.ts";
import { setWarningSink } from "../../src/data/warnings.ts";
import * as write from "./look-alikes.ts";
import { temporaryFolder } from "./support.ts";

const root = temporaryFolder("order");
let ucf = "";
let web = "";
beforeAll(async () => {
  setWarningSink(() => undefined);
  [ucf, web] = [join(root.path, "ucf"), join(root.path, "web")];
  await write.ucf101(ucf);
  mkdirSync(web);
  await write.webdataset(web, 4, 4);
});
afterAll(() => write.forgetVideos());

function config(path: string, layout: LayoutConfig, over: Partial<VideoSetConfig> = {}) {
  const small = { frames: 4, height: 16, width: 16, workers: 0, verify: "drawn", flip: true };
  const made = Value.Default(schema, { type: "video-set", path, ...small, ...over });
  return { ...(made as VideoSetConfig), layout };
}
const ucfLayout: LayoutConfig = { type: "ucf101", fold: 1 };
const webLayout: LayoutConfig = { type: "webdataset", shards: "clips-{000000..000003}.tar", held_out_shards: "clips-000003.tar" }; // biome-ignore format: one value

/** Clips one by one: name and bytes. */
const clipsOf = ({ ids, clips, size }: Batch): string[] =>
  ids.map((id, i) => {
    const each = clips.length / size;
    return `${id} ${Buffer.from(clips.subarray(i * each, (i + 1) * each)).toString("base64")}`;
  });

async function take(
  dataset: Dataset,
  batches: number,
  options: { batch: number; rank?: number; world?: number },
  from = 0,
): Promise<string[][]> {
  // biome-ignore format: one line
  const loader = new Loader(dataset, { seed: 5, ...options });
  if (from > 0) {
    loader.resume({ epoch: Math.floor(from / loader.batchesPerEpoch), batch: from % loader.batchesPerEpoch }); // biome-ignore format: one call
  }
  const out: string[][] = [];
  for (let i = 0; i < batches; i++) {
    out.push(clipsOf(await loader.next()));
  }
  return out;
}

describe("order of real files", () => {
  test("0, 1, 2 and 8 workers; one rank and four; a resume in mid-epoch", async () => {
    const dataset = await open(config(ucf, ucfLayout), "train", 5);
    const alone = await take(dataset, 6, { batch: 4 });
    for (const workers of [1, 2, 8]) {
      const threaded = await open(config(ucf, ucfLayout, { workers }), "train", 5);
      expect(await take(threaded, 6, { batch: 4 })).toEqual(alone);
      await threaded.close();
    }
    const ranks = await Promise.all([0, 1, 2, 3].map((rank) => take(dataset, 6, { batch: 1, rank, world: 4 }))); // biome-ignore format: one call
    expect(alone.map((_, step) => ranks.flatMap((batches) => batches[step]!))).toEqual(alone);
    expect(await take(dataset, 3, { batch: 4 }, 3)).toEqual(alone.slice(3));
  });

  test("shards: ranks have shards of their own, together the whole epoch; a resume needs no state", async () => {
    const over = { shuffle: "shards", shuffle_buffer: 3 } as const;
    const dataset = await open(config(web, webLayout, over), "train", 5);
    expect(dataset.shards?.starts).toEqual([0, 4, 8]);
    const whole = await take(dataset, 4, { batch: 3 });
    const names = (batches: string[][]): string[] =>
      batches.flat().map((clip) => clip.split("@")[0]!);
    expect(new Set(names(whole)).size).toBe(12);
    const ranks = await Promise.all([0, 1, 2].map((rank) => take(dataset, 4, { batch: 1, rank, world: 3 }))); // biome-ignore format: one call
    expect(ranks.map((rank) => new Set(names(rank).map((name) => name.split("/")[0])).size)).toEqual([1, 1, 1]); // biome-ignore format: one call
    expect(ranks.flatMap(names).sort()).toEqual(names(whole).sort());
    expect(await take(dataset, 2, { batch: 3 }, 2)).toEqual(whole.slice(2));
    expect(names(await take(dataset, 4, { batch: 3 }, 4))).not.toEqual(names(whole)); // another epoch
    expect(() => new Loader(dataset, { batch: 1, seed: 0, rank: 0, world: 4 })).toThrow(/3 shards are too few/); // biome-ignore format: one call
  });
});

describe("index", () => {
  test("opens a set without its folders being walked; a change makes it anew", async () => {
    const index = join(root.path, "web.index");
    const first = await open(config(web, webLayout, { index }), "train", 5);
    const lines = readFileSync(index, "utf8").trimEnd().split("\n");
    expect(lines.length).toBe(1 + 16);
    const again = await open(config(web, webLayout, { index }), "train", 5);
    expect(again.fingerprint).toBe(first.fingerprint);
    const later = new Date(Date.now() + 5000);
    utimesSync(join(web, "clips-000001.tar"), later, later);
    const changed = await open(config(web, webLayout, { index }), "train", 5);
    expect(changed.fingerprint).not.toBe(first.fingerprint);
    // Without the archives' folder being readable the index would have to be made anew: it is not.
    rmSync(join(web, "source.mp4"));
    expect((await open(config(web, webLayout, { index }), "train", 5)).size).toBe(12);
  });
});

describe("check and inspect", () => {
  test("counts beside the official ones, what is missing, and fingerprints", async () => {
    const broken = join(root.path, "broken");
    await write.ucf101(broken);
    rmSync(join(broken, "UCF-101", "ApplyLipstick", "v_ApplyLipstick_g03_c01.avi"));
    const report = await checkDataset(config(broken, ucfLayout, { verify: "quick" }));
    expect(report.splits.map(({ split, items, named, official }) => [split, items, named, official])).toEqual([["train", 8, 9, 9537], ["validation", 3, 3, 3783]]); // biome-ignore format: one call
    expect(report.classes).toEqual({ found: 3, official: 101 });
    expect(report.skipped).toEqual([{ file: "ApplyLipstick/v_ApplyLipstick_g03_c01.avi", reason: "does not exist" }]); // biome-ignore format: one call
    expect(report.complete).toBe(false);
  });

  test("statistics and a contact sheet", async () => {
    const dataset = await open(config(ucf, ucfLayout), "train", 5);
    const { statistics, sheet, rows } = await inspectDataset(dataset, 9, 3, 4);
    expect([statistics.looked_at, rows.length]).toEqual([9, 3]);
    expect([sheet.width, sheet.height]).toEqual([4 * 16 + 3 * 2, 3 * 16 + 2 * 2]);
    expect(statistics.motion).toBeGreaterThan(1); // 4 levels a frame on three quarters of the pixels
    expect(statistics.still_share).toBe(0);
    expect(statistics.labels.map(({ clips }) => clips)).toEqual([3, 3, 3]);
  });
});
