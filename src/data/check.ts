/**
 * @file What a data set holds, beside what its authors say it should: counts by split and class, what
 * is missing or cannot be used and why, and fingerprints.
 */

import { UserError } from "../config/errors.ts";
import type { Dataset, Skipped } from "./dataset.ts";
import type { Official } from "./listing.ts";
import { type DatasetConfig, listingOf, openDataset } from "./registry.ts";

export interface SplitCheck {
  readonly split: "train" | "validation";
  /** What the authors call it. */
  readonly called: string;
  /** Items that can be used, and those that the layout names. */
  readonly items: number;
  readonly named: number;
  readonly official?: number;
  readonly clips: number;
  readonly fingerprint: string;
}

export interface CheckReport {
  readonly type: string;
  readonly splits: readonly SplitCheck[];
  /** Why a split has nothing. */
  readonly empty: readonly { readonly split: string; readonly reason: string }[];
  readonly classes: { readonly found: number; readonly official?: number };
  readonly skipped: readonly Skipped[];
  readonly shape: readonly [frames: number, height: number, width: number];
  readonly fps: number;
  readonly sampling?: { readonly [choice: string]: unknown };
  /** No split is empty, nothing was skipped, and counts are the official ones where there are any. */
  readonly complete: boolean;
}

/** Open both splits, with a fresh look at every folder, and count. */
export async function checkDataset(config: DatasetConfig, seed = 0): Promise<CheckReport> {
  const listing = listingOf(config);
  const official: Official = listing?.official ?? {};
  const splits: SplitCheck[] = [];
  const empty: { split: string; reason: string }[] = [];
  const skipped = new Map<string, Skipped>();
  let any: Dataset | undefined;
  for (const split of ["train", "validation"] as const) {
    let dataset: Dataset;
    try {
      dataset = await openDataset(config, split, seed, { refresh: splits.length === 0 });
    } catch (error) {
      if (!(error instanceof UserError)) {
        throw error;
      }
      empty.push({ split, reason: error.message });
      continue;
    }
    try {
      any ??= dataset;
      for (const one of dataset.skipped ?? []) {
        skipped.set(`${one.file}\0${one.reason}`, one);
      }
      const lost = listing?.missing.filter((one) => one.split === split).length ?? 0;
      const stated = listing?.candidates.filter((one) => one.split === split).length;
      const expected = official[split];
      splits.push({
        split,
        called: textOf(dataset.sampling?.["split"]) ?? split,
        items: dataset.items ?? dataset.size,
        named: stated ? stated + lost : (dataset.items ?? dataset.size) + lost,
        ...(expected !== undefined && { official: expected }),
        clips: dataset.size,
        fingerprint: dataset.fingerprint,
      });
    } finally {
      await dataset.close();
    }
  }
  if (any === undefined) {
    throw new UserError(empty[0]!.reason, "Neither split can be opened.");
  }
  const counts = splits.every(({ items, official: wanted }) => wanted === undefined || items === wanted); // biome-ignore format: one condition
  const classes = any.classes.length;
  return {
    type: any.type,
    splits,
    empty,
    classes: {
      found: classes,
      ...(official.classes !== undefined && { official: official.classes }),
    },
    skipped: [...skipped.values()],
    shape: [any.frames, any.height, any.width],
    fps: any.fps,
    ...(any.sampling && { sampling: any.sampling }),
    complete:
      counts &&
      empty.length === 0 &&
      skipped.size === 0 &&
      (official.classes === undefined || official.classes === classes),
  };
}

const textOf = (value: unknown): string | undefined =>
  typeof value === "string" ? value : undefined;
