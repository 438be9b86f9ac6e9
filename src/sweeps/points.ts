/** @file From a sweep file's axes to its points: what each trial changes, and how it is called. */

import type { Json } from "../config/tree.ts";
import { samplePoints } from "./space.ts";
import type { PointConfig, Space, Sweep } from "./schema.ts";

/** What one point changes. */
export interface Point {
  /** Where it stands on each axis, as text for tables: {"quantizer": "lfq", "seed": "1"}. */
  readonly labels: { readonly [axis: string]: string };
  /** Values by dotted key, in the order they are set. */
  readonly set: { readonly [key: string]: Json };
  /** Overrides as text, applied before `set`. */
  readonly overrides: readonly string[];
}

const origin: Point = { labels: {}, set: {}, overrides: [] };

/** A value as a label: text as it is, everything else as JSON. */
export function labelOf(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

const changesOf = (point: PointConfig): Pick<Point, "set" | "overrides"> =>
  Array.isArray(point)
    ? { set: {}, overrides: point as string[] }
    : { set: point as { [key: string]: Json }, overrides: [] };

/** A point of named changes, labelled by its keys. */
function listed(point: Sweep["list"][number]): Point {
  if (!Array.isArray(point) && "labels" in point && "set" in point) {
    const { labels: own, set } = point as { labels: { [axis: string]: string }; set: PointConfig };
    return { ...changesOf(set), labels: own };
  }
  const changes = changesOf(point);
  const labels = Array.isArray(point)
    ? { point: (point as string[]).join(" ") }
    : Object.fromEntries(Object.entries(changes.set).map(([key, value]) => [key, labelOf(value)]));
  return { ...changes, labels };
}

const onKey = (key: string, value: unknown): Point => ({
  labels: { [key]: labelOf(value) },
  set: { [key]: value as Json },
  overrides: [],
});

const named = (axis: string, name: string, point: PointConfig): Point => ({
  ...changesOf(point),
  labels: { [axis]: name },
});

/** Both points' changes, the second laid over the first. */
export function joined(a: Point, b: Point): Point {
  return {
    labels: { ...a.labels, ...b.labels },
    set: { ...a.set, ...b.set },
    overrides: [...a.overrides, ...b.overrides],
  };
}

/** The axes of a sweep without seeds, each a list of points; an empty list means no such axis. */
function axesOf(sweep: Sweep): Point[][] {
  const axes: Point[][] = [];
  for (const [name, axis] of Object.entries(sweep.grid)) {
    axes.push(
      Array.isArray(axis)
        ? axis.map((value) => onKey(name, value))
        : Object.entries(axis as { [name: string]: PointConfig }).map(([label, point]) =>
            named(name, label, point),
          ),
    );
  }
  for (const group of sweep.zip) {
    const length = Math.max(0, ...Object.values(group).map((values) => values.length));
    axes.push(
      Array.from({ length }, (_, i) =>
        Object.entries(group)
          .map(([key, values]) => onKey(key, values[i]))
          .reduce(joined, origin),
      ),
    );
  }
  axes.push(sweep.list.map(listed));
  if (sweep.sample) {
    const { space, method, points, seed } = sweep.sample;
    axes.push(
      samplePoints(space as Space, method, points, seed).map((values) =>
        Object.entries(values)
          .map(([key, value]) => onKey(key, value))
          .reduce(joined, origin),
      ),
    );
  }
  if (sweep.ablation) {
    const baseline = changesOf(sweep.ablation.baseline ?? {});
    const first: Point = { ...baseline, labels: { ablation: "baseline" } };
    const changes = Object.entries(sweep.ablation.changes as { [name: string]: PointConfig });
    axes.push([
      first,
      ...changes.map(([name, change]) =>
        joined(first, { ...changesOf(change), labels: { ablation: name } }),
      ),
    ]);
  }
  return axes.filter((axis) => axis.length > 0);
}

/** All points of a sweep in their order: the last axis runs fastest, seeds are not among them. */
export function pointsOf(sweep: Sweep): Point[] {
  return axesOf(sweep).reduce<Point[]>(
    (points, axis) => points.flatMap((point) => axis.map((other) => joined(point, other))),
    [origin],
  );
}

/** The seeds of a sweep; undefined keeps the base experiment's own. */
export function seedsOf(sweep: Sweep): readonly (number | undefined)[] {
  const { seeds } = sweep;
  return typeof seeds === "number"
    ? Array.from({ length: seeds }, (_, i) => i)
    : (seeds ?? [undefined]);
}
