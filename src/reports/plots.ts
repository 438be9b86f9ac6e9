/**
 * @file Curves and histograms as SVG text, drawn by Vega-Lite without a browser. Colours are CSS
 * variables of the page (`--train`, `--validation`, `--ink-soft`, `--line`), so one picture serves
 * the light and the dark theme.
 */

import type { TopLevelSpec } from "vega-lite";
import { formatNumber } from "./format.ts";
import type { MetricRow } from "./run-folder.ts";

export interface Point {
  readonly step: number;
  readonly value: number;
  readonly split: string;
}

/** A metric's values in one stage, over all splits. */
export interface Curve {
  readonly stage: string;
  readonly metric: string;
  readonly points: readonly Point[];
}

const plotConfig = {
  background: "transparent",
  font: "inherit",
  view: { stroke: null },
  axis: {
    labelColor: "var(--ink-soft)",
    titleColor: "var(--ink-soft)",
    gridColor: "var(--line)",
    domainColor: "var(--line)",
    tickColor: "var(--line)",
    labelFontSize: 11,
    titleFontSize: 11,
    titleFontWeight: 400,
    labelFlush: false,
  },
} as const;

/** A curve with more points than this is averaged in buckets: a page is not a data file. */
const maxPoints = 400;

/** The curves of metrics.jsonl, in the order in which stages and metrics first appear. */
export function curvesOf(rows: readonly MetricRow[]): Curve[] {
  const curves = new Map<string, { stage: string; metric: string; points: Point[] }>();
  for (const row of rows) {
    for (const [metric, value] of Object.entries(row)) {
      if (metric === "step" || metric === "stage" || typeof value !== "number") {
        continue;
      }
      const key = `${row.stage}\0${metric}`;
      const curve = curves.get(key) ?? { stage: row.stage, metric, points: [] };
      curve.points.push({ step: row.step, value, split: row.split });
      curves.set(key, curve);
    }
  }
  return [...curves.values()];
}

/** At most `limit` points a split; each is the mean of its bucket, at the bucket's last step. */
export function thin(points: readonly Point[], limit = maxPoints): Point[] {
  return [...new Set(points.map((point) => point.split))].flatMap((split) => {
    const own = points.filter((point) => point.split === split && Number.isFinite(point.value));
    const width = Math.ceil(own.length / limit) || 1;
    return Array.from({ length: Math.ceil(own.length / width) }, (_, index) => {
      const bucket = own.slice(index * width, (index + 1) * width);
      const sum = bucket.reduce((total, point) => total + point.value, 0);
      return { step: bucket.at(-1)!.step, value: sum / bucket.length, split };
    });
  });
}

/**
 * One metric's curve. Training is a thin line, validation a line with dots. The axis is logarithmic
 * when all values are positive and span more than a factor of 50.
 * @param size width and height of the plotting area in px
 */
export async function curveSvg(
  curve: Curve,
  id: string,
  size: { readonly width: number; readonly height: number },
): Promise<string> {
  const values = thin(curve.points);
  const heights = values.map((point) => point.value);
  const low = Math.min(...heights);
  const high = Math.max(...heights);
  const log = low > 0 && high / low > 50;
  const line = (split: string, dots: boolean): object => ({
    transform: [{ filter: { field: "split", equal: split } }],
    mark: {
      type: "line",
      strokeWidth: dots ? 2 : 1.4,
      color: `var(--${dots ? "validation" : "train"})`,
      ...(dots ? { point: { size: 28, color: "var(--validation)", filled: true } } : {}),
    },
  });
  return render(
    {
      width: size.width,
      height: size.height,
      data: { values: values as unknown as object[] },
      encoding: {
        x: { field: "step", type: "quantitative", title: "step", axis: { tickCount: 5 } },
        y: {
          field: "value",
          type: "quantitative",
          title: null,
          scale: log ? { type: "log" } : { zero: false, nice: true },
          axis: { tickCount: 5, ...(log ? { format: "~g" } : {}) },
        },
      },
      layer: [line("train", false), line("validation", true)],
    } as TopLevelSpec,
    id,
    `${curve.metric} over steps, from ${formatNumber(low)} to ${formatNumber(high)}`,
  );
}

/**
 * Token use: codes sorted by how often they are used, frequency on a logarithmic axis, beside the
 * line of a uniform use.
 * @param counts uses of each code of one sub-vocabulary; at least one is positive
 */
export async function usageSvg(
  counts: readonly number[],
  id: string,
  size: { readonly width: number; readonly height: number },
): Promise<string> {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const used = counts.filter((count) => count > 0).sort((a, b) => b - a);
  const stride = Math.max(1, Math.ceil(used.length / maxPoints));
  const values = used
    .map((count, rank) => ({ rank: rank + 1, frequency: count / total }))
    .filter((_, rank) => rank % stride === 0 || rank === used.length - 1);
  return render(
    {
      width: size.width,
      height: size.height,
      encoding: {
        x: {
          field: "rank",
          type: "quantitative",
          title: "code, by how often it is used",
          scale: { domain: [1, counts.length], nice: false },
          axis: { tickCount: 5, grid: false },
        },
        y: {
          field: "frequency",
          type: "quantitative",
          title: null,
          scale: { type: "log" },
          axis: { tickCount: 4, format: "~%" },
        },
      },
      layer: [
        {
          data: { values },
          mark: { type: "line", color: "var(--train)", strokeWidth: 2 },
        },
        {
          data: {
            values: [1, counts.length].map((rank) => ({ rank, frequency: 1 / counts.length })),
          },
          mark: { type: "line", color: "var(--ink-soft)", strokeDash: [4, 3], strokeWidth: 1 },
        },
      ],
    } as TopLevelSpec,
    id,
    `${used.length} of ${counts.length} codes are used`,
  );
}

/** A point of a rate-distortion chart. */
export interface RatePlotPoint {
  readonly series: string;
  /** Bits a pixel, above 0. */
  readonly rate: number;
  readonly quality: number;
  /** A point of the run's own, drawn as a mark; the others are joined to curves. */
  readonly own: boolean;
}

/** Rate-distortion curves of codecs, and the run's own points among them. */
export async function rateDistortionSvg(
  points: readonly RatePlotPoint[],
  id: string,
  size: { readonly width: number; readonly height: number },
): Promise<string> {
  const x = {
    field: "rate",
    type: "quantitative",
    title: "bits a pixel",
    scale: { type: "log", nice: false },
    axis: { tickCount: 6, format: "~g" },
  };
  const y = {
    field: "quality",
    type: "quantitative",
    title: "PSNR, dB",
    scale: { zero: false, nice: true },
  };
  const color = {
    field: "series",
    type: "nominal",
    title: null,
    scale: { scheme: "tableau10" },
    legend: { orient: "bottom", columns: 3, labelColor: "var(--ink-soft)" },
  };
  return render(
    {
      width: size.width,
      height: size.height,
      data: { values: points as unknown as object[] },
      encoding: { x, y, color },
      layer: [
        {
          transform: [{ filter: "!datum.own" }],
          mark: { type: "line", strokeWidth: 1.6, point: { size: 24 } },
        },
        {
          transform: [{ filter: "datum.own" }],
          mark: { type: "point", filled: true, size: 110, shape: "diamond" },
        },
      ],
    } as TopLevelSpec,
    id,
    `PSNR over bits a pixel of ${new Set(points.map((point) => point.series)).size} series`,
  );
}

/** Vega is heavy, so it is loaded with the first picture. */
export async function render(spec: TopLevelSpec, id: string, label: string): Promise<string> {
  const [vega, lite] = await Promise.all([import("vega"), import("vega-lite")]);
  const { spec: compiled } = lite.compile({ ...spec, config: plotConfig } as TopLevelSpec);
  const view = new vega.View(vega.parse(compiled), { renderer: "none" });
  try {
    const svg = await view.toSVG();
    return (
      svg
        // Clip paths of several pictures on one page must not share names.
        .replace(/\b(id="|url\(#)(clip|gradient)/g, `$1${id}-$2`)
        .replace("<svg ", `<svg role="img" aria-label="${label}" `)
    );
  } finally {
    view.finalize();
  }
}
