/** @file The data sets by `type`. A new one is a file with `schema` and `open`, and a line here. */

import { component, type Static } from "../config/schema.ts";
import type { Dataset } from "./dataset.ts";
import type { Listing } from "./listing.ts";
import * as movingMnist from "./moving-mnist.ts";
import * as movingShapes from "./moving-shapes.ts";
import * as videoFolder from "./video-folder.ts";
import * as videoSet from "./video-set.ts";

export const datasets = {
  "moving-shapes": movingShapes,
  "moving-mnist": movingMnist,
  "video-folder": videoFolder,
  "video-set": videoSet,
} as const;

export const datasetSchema = component("datasets", datasets, "Where clips come from.");

export type DatasetConfig = Static<typeof datasetSchema>;

export interface OpenOptions {
  /** Look at folders anew, whatever the set's index says. */
  readonly refresh?: boolean;
}

/** What a set's folder or list names, for sets that have one. */
export function listingOf(config: DatasetConfig): Listing | undefined {
  switch (config.type) {
    case "video-folder":
      return videoFolder.find(config);
    case "video-set":
      return videoSet.find(config);
    default:
      return undefined;
  }
}

/**
 * Open one split of a data set.
 * @param seed the run's seed: random crops and spans, and endless generators, follow it
 * @throws UserError when the set cannot give a clip at all
 */
export function openDataset(
  config: DatasetConfig,
  split: "train" | "validation",
  seed: number,
  options: OpenOptions = {},
): Promise<Dataset> {
  switch (config.type) {
    case "moving-shapes":
      return movingShapes.open(config, split, seed);
    case "moving-mnist":
      return movingMnist.open(config, split, seed);
    case "video-folder":
      return videoFolder.open(config, split, seed, options.refresh);
    case "video-set":
      return videoSet.open(config, split, seed, options.refresh);
  }
}
