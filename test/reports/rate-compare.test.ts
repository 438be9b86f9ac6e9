import { expect, it } from "vitest";
import type { RateDistortion } from "../../src/eval/compression-suite.ts";
import { mergeRates } from "../../src/reports/rate-compare.ts";

const curve = (series: string, scale: number) =>
  [0.1, 0.2, 0.4, 0.8].map((rate) => ({
    series,
    bytes: 100,
    bpp: rate * scale,
    psnr: 30 + 10 * Math.log10(rate),
  }));

const record = (points: RateDistortion["points"], clips = "a"): RateDistortion => ({
  clips_sha256: clips,
  frames: 8,
  height: 32,
  width: 32,
  fps: 8,
  points,
  settings: {},
  bd_rate: {},
});

it("makes a curve of runs, whose BD-rate is known", () => {
  // Four runs that need half the codec's rate at every PSNR.
  const runs = curve("tokens: prior", 0.5).map((point, i) => ({
    run: `r${i}`,
    record: record([point, ...curve("x264", 1)]),
  }));
  for (const interpolation of ["cubic", "pchip", "akima"] as const) {
    const { comparisons, anchors } = mergeRates(runs, interpolation);
    expect(anchors.length).toBe(4);
    expect(comparisons).toHaveLength(1);
    expect(comparisons[0]!.bdRate).toBeCloseTo(-50, 6);
    comparisons[0]!.atOwnPsnr.forEach(({ percent }) => expect(percent).toBeCloseTo(-50, 6));
  }
});

it("refuses runs that were measured on other clips", () => {
  const runs = ["a", "b"].map((clips) => ({ run: clips, record: record([], clips) }));
  expect(() => mergeRates(runs, "pchip")).toThrow(/other clips/);
});
