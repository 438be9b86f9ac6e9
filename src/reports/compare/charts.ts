/** @file The pictures of a comparison: scores along an axis, Pareto fronts, curves with bands over seeds. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { TopLevelSpec } from "vega-lite";
import { render } from "../plots.ts";
import { bootstrapInterval, mean } from "../../eval/statistics/bootstrap.ts";
import type { Column, Comparison } from "./comparison.ts";
import { type Placed, paretoFront, tradeoffs } from "./pareto.ts";
import { columnTitle } from "./tables.ts";

const size = { width: 330, height: 210 } as const;
const palette = [
  "#2d5d9f",
  "#c2571a",
  "#2e7d4f",
  "#8a4fa3",
  "#a68a00",
  "#b3372b",
  "#3d8f9b",
  "#777",
];
const legend = {
  orient: "bottom",
  columns: 3,
  title: null,
  labelColor: "var(--ink-soft)",
  labelFontSize: 11,
  symbolOpacity: 1,
  symbolStrokeWidth: 3,
} as const;
const colour = (field: string): object => ({
  field,
  type: "nominal",
  scale: { range: palette },
  legend,
});

/** A picture with its caption. */
export interface Chart {
  readonly title: string;
  readonly svg: string;
}

/** A configuration's name: its labels on all axes but those given. */
function nameOf(labels: { readonly [axis: string]: string }, without: readonly string[]): string {
  const parts = Object.entries(labels).filter(([axis]) => !without.includes(axis));
  return (
    parts
      .map(([axis, text]) => (parts.length > 1 ? `${axis.replace(/^.*\./, "")} ${text}` : text))
      .join(", ") || "all"
  );
}

/** The axis whose labels are numbers with the most values, if any has three: what curves run along. */
export function numericAxis({ axes, groups }: Comparison): string | undefined {
  const counts = axes.map((axis): [string, number] => {
    const labels = new Set(groups.map(({ labels: own }) => own[axis]));
    const numeric = [...labels].every(
      (text) => text !== undefined && Number.isFinite(Number(text)),
    );
    return [axis, numeric ? labels.size : 0];
  });
  const [best] = counts.toSorted((a, b) => b[1] - a[1]);
  return best && best[1] >= 3 ? best[0] : undefined;
}

/** One score for all configurations: lines with bands along a numeric axis, else points with bars. */
export async function scoreChart(comparison: Comparison, c: number, id: string): Promise<Chart> {
  const { groups, cells, columns } = comparison;
  const column = columns[c]!;
  const axis = numericAxis(comparison);
  const values = groups.flatMap(({ labels }, g) => {
    const { center, interval } = cells[g]![c]!;
    return center === undefined
      ? []
      : [
          {
            x: axis === undefined ? nameOf(labels, []) : Number(labels[axis]),
            line: axis === undefined ? "" : nameOf(labels, [axis]),
            y: center,
            low: interval?.low ?? center,
            high: interval?.high ?? center,
          },
        ];
  });
  const y = { type: "quantitative", scale: { zero: false }, title: null } as const;
  const xs = values.map(({ x }) => Number(x));
  const log = axis !== undefined && Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) >= 16;
  const spec =
    axis === undefined
      ? {
          width: size.width,
          height: { step: 22 },
          data: { values },
          encoding: {
            y: { field: "x", type: "nominal", title: null, sort: null, axis: { labelLimit: 190 } },
          },
          layer: [
            {
              mark: { type: "rule", color: "var(--train)", strokeWidth: 3 },
              encoding: { x: { ...y, field: "low" }, x2: { field: "high" } },
            },
            {
              mark: { type: "point", filled: true, size: 60, color: "var(--validation)" },
              encoding: { x: { ...y, field: "y" } },
            },
          ],
        }
      : {
          ...size,
          data: { values },
          encoding: {
            x: {
              field: "x",
              type: "quantitative",
              title: axis,
              scale: log ? { type: "log", base: 2 } : { zero: false },
              axis: { tickCount: 8, format: "~r" },
            },
            color: colour("line"),
          },
          layer: [
            {
              mark: { type: "area", opacity: 0.16 },
              encoding: { y: { ...y, field: "low" }, y2: { field: "high" } },
            },
            {
              mark: { type: "line", point: { size: 34 }, strokeWidth: 2 },
              encoding: { y: { ...y, field: "y" } },
            },
          ],
        };
  return {
    title: columnTitle(column),
    svg: await render(spec as unknown as TopLevelSpec, id, column.key),
  };
}

/** The first column whose name begins with one of these. */
function find(columns: readonly Column[], names: readonly string[]): number {
  for (const name of names) {
    const index = columns.findIndex(
      (column) => column.name === name || column.name.startsWith(name),
    );
    if (index >= 0) {
      return index;
    }
  }
  return -1;
}

/** Two scores against each other with their front, for each pair that is worth it. */
export async function tradeoffCharts(comparison: Comparison): Promise<Chart[]> {
  const { groups, cells, columns, axes } = comparison;
  const charts: Chart[] = [];
  for (const [i, { title, x, y }] of tradeoffs.entries()) {
    const [cx, cy] = [find(columns, x), find(columns, y)];
    const [bx, by] = [columns[cx]?.better, columns[cy]?.better];
    if (bx === undefined || by === undefined || bx === "none" || by === "none") {
      continue;
    }
    const axis = numericAxis(comparison);
    const placed = groups.flatMap(({ labels }, g): (Placed & { line: string })[] => {
      const [px, py] = [cells[g]![cx]!.center, cells[g]![cy]!.center];
      const line = nameOf(labels, axis === undefined || axes.length < 2 ? [] : [axis]);
      return px === undefined || py === undefined ? [] : [{ x: px, y: py, line }];
    });
    if (placed.length < 3) {
      continue;
    }
    const front = paretoFront(placed, { x: bx, y: by }).map((index) => placed[index]!);
    const encoding = {
      x: {
        field: "x",
        type: "quantitative",
        scale: { zero: false },
        title: columnTitle(columns[cx]!),
      },
      y: {
        field: "y",
        type: "quantitative",
        scale: { zero: false },
        title: columnTitle(columns[cy]!),
      },
    };
    const spec = {
      ...size,
      layer: [
        {
          data: { values: front },
          mark: { type: "line", color: "var(--ink-soft)", strokeDash: [4, 3] },
          encoding,
        },
        {
          data: { values: placed },
          mark: { type: "point", filled: true, size: 60 },
          encoding: { ...encoding, color: colour("line") },
        },
      ],
    };
    charts.push({
      title: `${title}; dashed: the Pareto front`,
      svg: await render(spec as unknown as TopLevelSpec, `front-${i}`, title),
    });
  }
  return charts;
}

/** A curve of each configuration: the mean over seeds, and a bootstrap band where there are several. */
export async function bandChart(
  comparison: Comparison,
  stage: string,
  metric: string,
  id: string,
): Promise<Chart | undefined> {
  const values = comparison.groups.flatMap(({ labels, runs }) => {
    const bySteps = new Map<number, number[]>();
    for (const run of runs) {
      for (const [step, value] of curve(run.dir, stage, metric)) {
        bySteps.set(step, [...(bySteps.get(step) ?? []), value]);
      }
    }
    return [...bySteps].map(([step, all]) => {
      const interval = bootstrapInterval(all);
      const y = mean(all);
      return {
        step,
        y,
        low: interval?.low ?? y,
        high: interval?.high ?? y,
        line: nameOf(labels, []),
      };
    });
  });
  const lines = new Set(values.map(({ line }) => line)).size;
  if (values.length < 2 || lines > 12 || new Set(values.map(({ step }) => step)).size < 2) {
    return undefined;
  }
  const y = { type: "quantitative", scale: { zero: false }, title: null } as const;
  const spec = {
    ...size,
    data: { values },
    encoding: { x: { field: "step", type: "quantitative", title: "step" }, color: colour("line") },
    layer: [
      {
        mark: { type: "area", opacity: 0.14 },
        encoding: { y: { ...y, field: "low" }, y2: { field: "high" } },
      },
      { mark: { type: "line", strokeWidth: 1.8 }, encoding: { y: { ...y, field: "y" } } },
    ],
  };
  const title = `${stage}, held-out ${metric}`;
  return { title, svg: await render(spec as unknown as TopLevelSpec, id, title) };
}

function curve(dir: string, stage: string, metric: string): [number, number][] {
  let text: string;
  try {
    text = readFileSync(join(dir, "metrics.jsonl"), "utf8");
  } catch {
    return [];
  }
  return text.split("\n").flatMap((line): [number, number][] => {
    if (!line.includes('"validation"') || !line.includes(`"${stage}"`)) {
      return [];
    }
    const row = JSON.parse(line) as {
      stage: string;
      step: number;
      split: string;
      [k: string]: unknown;
    };
    const value = row[metric];
    return row.stage === stage && row.split === "validation" && typeof value === "number"
      ? [[row.step, value]]
      : [];
  });
}
