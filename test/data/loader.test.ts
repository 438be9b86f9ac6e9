/** @file The loader: one order for every worker count, rank count and interruption. */

import fc from "fast-check";
import { Value } from "typebox/value";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Dataset, SampleError } from "../../src/data/dataset.ts";
import { type Batch, Loader, onePass } from "../../src/data/loader.ts";
import { type MovingShapesConfig, open, schema } from "../../src/data/moving-shapes.ts";
import { setWarningSink } from "../../src/data/warnings.ts";

let warnings: string[] = [];
let previous: (message: string) => void;
beforeEach(() => {
  warnings = [];
  previous = setWarningSink((message) => warnings.push(message));
});
afterEach(() => {
  setWarningSink(previous);
});

/** Items that say what was drawn; some cannot be had, some come late. */
function fake(size: number, broken: readonly number[] = []): Dataset {
  return {
    type: "fake",
    split: "train",
    size,
    frames: 1,
    height: 1,
    width: 1,
    fps: 8,
    audioRate: 0,
    classes: ["a", "b"],
    fingerprint: "fake",
    get: async (index, visit) => {
      await new Promise<void>((resolve) => {
        setTimeout(resolve, (index * 7) % 3);
      });
      if (broken.includes(index)) {
        throw new SampleError(`clip ${index} is gone`);
      }
      return {
        id: `${index}/${visit}`,
        clip: Uint8Array.of(index, visit, 0),
        label: index % 2,
        caption: `clip ${index}`,
      };
    },
    close: () => Promise.resolve(),
  };
}

async function take(loader: Loader, count: number): Promise<Batch[]> {
  const batches: Batch[] = [];
  for (let i = 0; i < count; i++) {
    batches.push(await loader.next());
  }
  return batches;
}
const ids = (batches: readonly Batch[]) => batches.flatMap((batch) => batch.ids);

describe("Loader", () => {
  test("each epoch is a permutation of its own; the rest of a batch is dropped", async () => {
    const loader = new Loader(fake(10), { batch: 3, seed: 1 });
    expect(loader.batchesPerEpoch).toBe(3);
    const [first, second] = [ids(await take(loader, 3)), ids(await take(loader, 3))];
    expect(new Set(first.map((id) => id.split("/")[0])).size).toBe(9);
    expect(first.every((id) => id.endsWith("/0"))).toBe(true);
    expect(second.every((id) => id.endsWith("/1"))).toBe(true);
    expect(first.map((id) => id.split("/")[0])).not.toEqual(second.map((id) => id.split("/")[0]));
    const other = ids(await take(new Loader(fake(10), { batch: 3, seed: 2 }), 3));
    expect(other).not.toEqual(first);
  });

  test("resumes at the exact batch from any state", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 0, max: 9 }),
        fc.integer({ min: 0, max: 3 }),
        async (size, batch, stop, prefetch) => {
          const options = { batch, seed: 4, prefetch };
          const whole = new Loader(fake(size), options);
          await take(whole, stop);
          const state = JSON.parse(JSON.stringify(whole.state())) as ReturnType<Loader["state"]>;
          const rest = await take(whole, 4);
          const resumed = new Loader(fake(size), options);
          await take(resumed, 1); // a used loader resumes as well as a new one
          resumed.resume(state);
          expect(await take(resumed, 4)).toEqual(rest);
        },
      ),
      { numRuns: 25 },
    );
  });

  test("ranks together give the batches of one rank", async () => {
    const one = await take(new Loader(fake(25), { batch: 6, seed: 3 }), 9);
    const two = await Promise.all(
      [0, 1].map((rank) => take(new Loader(fake(25), { batch: 3, seed: 3, rank, world: 2 }), 9)),
    );
    for (const [step, batch] of one.entries()) {
      expect([...two[0]![step]!.ids, ...two[1]![step]!.ids]).toEqual(batch.ids);
      expect([...two[0]![step]!.clips, ...two[1]![step]!.clips]).toEqual([...batch.clips]);
    }
  });

  test("a set smaller than a batch fills it by several passes", async () => {
    const loader = new Loader(fake(3), { batch: 8, seed: 0 });
    const [batch] = await take(loader, 1);
    expect(batch!.size).toBe(8);
    const counts = [0, 1, 2].map((i) => batch!.ids.filter((id) => id.startsWith(`${i}/`)).length);
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
    expect(new Set(batch!.ids).size).toBe(8); // no visit twice
  });

  test("replaces what cannot be had by the next clip, and says so once", async () => {
    const loader = new Loader(fake(6, [2, 3]), { batch: 6, seed: 5 });
    const batches = await take(loader, 3);
    const drawn = ids(batches).map((id) => Number(id.split("/")[0]));
    expect(drawn.filter((index) => index === 4).length).toBe(9); // in place of 2 and 3 as well
    expect(new Set(drawn)).toEqual(new Set([0, 1, 4, 5]));
    expect(warnings.sort()).toEqual([
      "train data: clip 2 is gone; the next clip takes its place",
      "train data: clip 3 is gone; the next clip takes its place",
    ]);
  });

  test("ends when no clip at all can be had, and with other errors", async () => {
    await expect(new Loader(fake(2, [0, 1]), { batch: 1, seed: 0 }).next()).rejects.toThrow(
      /none of the 2 clips of the train split can be read; the last one: clip \d is gone/,
    );
    const failing: Dataset = { ...fake(2), get: () => Promise.reject(new TypeError("a bug")) };
    await expect(new Loader(failing, { batch: 1, seed: 0 }).next()).rejects.toThrow("a bug");
  });

  test("one order and the same bytes for any number of workers", async () => {
    const digests: string[] = [];
    for (const workers of [0, 1, 2, 8]) {
      const config = Value.Default(schema, {
        type: "moving-shapes",
        frames: 3,
        height: 16,
        width: 16,
        audio_rate: 4000,
        size: 24,
        workers,
      }) as MovingShapesConfig;
      const dataset = await open(config, "train", 0);
      const batches = await take(new Loader(dataset, { batch: 5, seed: 9, prefetch: 3 }), 6);
      digests.push(
        batches
          .map((b) =>
            [b.ids.join(), Buffer.from(b.clips).toString("base64"), b.audio!.join()].join(),
          )
          .join(),
      );
      await dataset.close();
    }
    expect(new Set(digests).size).toBe(1);
  });
});

describe("onePass", () => {
  test("gives every item once, in order, the last batch smaller", async () => {
    const batches: Batch[] = [];
    for await (const batch of onePass(fake(10), { batch: 4 })) {
      batches.push(batch);
    }
    expect(batches.map((batch) => batch.size)).toEqual([4, 4, 2]);
    expect(ids(batches)).toEqual(Array.from({ length: 10 }, (_, i) => `${i}/0`));
  });

  test("ranks share the pass without overlap, a limit cuts it", async () => {
    const seen: string[] = [];
    for (const rank of [0, 1, 2]) {
      for await (const batch of onePass(fake(11), { batch: 2, rank, world: 3 }, 10)) {
        seen.push(...batch.ids);
      }
    }
    expect(seen.length).toBe(10);
    expect(new Set(seen).size).toBe(10);
  });
});
