import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodingCounts, hiddenShare, maskSchedules } from "../../src/objectives/mask-schedule.ts";
import { drawMasks } from "../../src/objectives/masked.ts";
import { Random } from "../../src/runtime/random.ts";

const schedule = fc.constantFrom(...maskSchedules);

describe("mask schedules", () => {
  test("cosine decoding of 1024 tokens in 12 steps, the counts of MAGVIT", () => {
    expect(decodingCounts("cosine", 1024, 12)).toEqual([
      9, 26, 43, 60, 74, 88, 101, 111, 121, 126, 132, 133,
    ]);
  });

  test("linear decoding shares evenly", () => {
    expect(decodingCounts("linear", 12, 4)).toEqual([3, 3, 3, 3]);
  });

  test("all tokens are decided, one or more a step, in at most K steps", () => {
    fc.assert(
      fc.property(
        schedule,
        fc.integer({ min: 0, max: 300 }),
        fc.integer({ min: 1, max: 400 }),
        (name, unknown, steps) => {
          const counts = decodingCounts(name, unknown, steps);
          expect(counts.length).toBeLessThanOrEqual(Math.min(steps, unknown));
          expect(Math.min(1, ...counts)).toBe(1);
          expect(counts.reduce((sum, count) => sum + count, 0)).toBe(unknown);
        },
      ),
    );
  });

  test("γ falls from about 1 to 0", () => {
    fc.assert(
      fc.property(schedule, fc.double({ min: 0, max: 0.99, noNaN: true }), (name, r) => {
        const here = hiddenShare(name, r, 64);
        expect(here).toBeGreaterThan(hiddenShare(name, r + 0.01, 64));
        expect(here).toBeLessThanOrEqual(1);
        expect(hiddenShare(name, 0, 64)).toBeGreaterThan(0.98);
        expect(hiddenShare(name, 1, 64)).toBeCloseTo(0, 12);
      }),
    );
  });
});

describe("training masks", () => {
  test("one token or more is hidden in every row, and the same key gives the same masks", () => {
    fc.assert(
      fc.property(
        schedule,
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 40 }),
        fc.nat(1000),
        (name, size, tokens, step) => {
          const masks = drawMasks(size, tokens, name, new Random(3, "m", step));
          for (let b = 0; b < size; b++) {
            expect(masks.subarray(b * tokens, (b + 1) * tokens)).toContain(1);
          }
          expect(drawMasks(size, tokens, name, new Random(3, "m", step))).toEqual(masks);
        },
      ),
    );
  });

  test("the hidden share averages to the schedule's integral, evenly over places", () => {
    const size = 8;
    const tokens = 64;
    const perPlace = new Float64Array(tokens);
    const batches = 400;
    let worst = 0;
    for (let step = 0; step < batches; step++) {
      const masks = drawMasks(size, tokens, "cosine", new Random(5, "m", step));
      masks.forEach((hidden, i) => (perPlace[i % tokens]! += hidden / (size * batches)));
      const share = masks.reduce((sum, hidden) => sum + hidden, 0) / masks.length;
      worst = Math.max(worst, Math.abs(share - 2 / Math.PI));
    }
    // The integral of cos(πr/2) is 2/π; ceil adds half a token on average.
    const mean = perPlace.reduce((sum, share) => sum + share, 0) / tokens;
    expect(mean).toBeCloseTo(2 / Math.PI + 0.5 / tokens, 2);
    expect(Math.max(...perPlace) - Math.min(...perPlace)).toBeLessThan(0.06);
    // Ratios spread over the batch: no batch is far from the mean.
    expect(worst).toBeLessThan(0.1);
  });
});
