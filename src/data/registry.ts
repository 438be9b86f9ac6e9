/** @file The data sets by `type`. A new one is a file with `schema` and `open`, and a line here. */

import { closed, component, type Static, Type } from "../config/schema.ts";
import { UserError } from "../config/errors.ts";
import type { Dataset } from "./dataset.ts";
import type { Listing } from "./listing.ts";
import * as movingMnist from "./moving-mnist.ts";
import * as movingShapes from "./moving-shapes.ts";
import * as sounds from "./sounds.ts";
import { mix } from "./mixture.ts";
import * as videoFolder from "./video-folder.ts";
import * as videoSet from "./video-set.ts";

/** The sets that hold clips of their own. */
const sources = {
  "moving-shapes": movingShapes,
  "moving-mnist": movingMnist,
  "video-folder": videoFolder,
  "video-set": videoSet,
  sounds,
} as const;

const sourceSchema = component("datasets", sources, "A data set.");

const mixture = {
  schema: closed(
    {
      type: Type.Literal("mixture"),
      sources: Type.Record(Type.String(), sourceSchema, {
        minProperties: 1,
        description:
          "Data sets by a name of your choice, all of one clip size; pictures have 1 frame.",
      }),
      weights: Type.Record(Type.String(), Type.Number({ minimum: 0 }), {
        default: {},
        description: "Shares of the sources by name; a source that is not named has 1.",
      }),
      final_weights: Type.Record(Type.String(), Type.Number({ minimum: 0 }), {
        default: {},
        description: "Shares after schedule_epochs; a source that is not named keeps its share.",
      }),
      schedule_epochs: Type.Number({
        minimum: 0,
        default: 0,
        description: "Epochs over which shares go from weights to final_weights in equal steps.",
      }),
      balance: Type.Enum(["none", "classes"], {
        default: "none",
        description: "classes: within each source, its classes take turns.",
      }),
      size: Type.Integer({ minimum: 1, default: 10_000, description: "Clips of an epoch." }),
      validation_size: Type.Integer({
        minimum: 1,
        default: 1000,
        description: "Held-out clips, by the first weights.",
      }),
      frames: Type.Integer({ minimum: 1, default: 17, description: "Frames of a clip." }),
      height: Type.Integer({ minimum: 8, default: 128, description: "Pixel rows." }),
      width: Type.Integer({ minimum: 8, default: 128, description: "Pixel columns." }),
    },
    { description: "Several data sets in stated shares; pictures stand still among videos." },
  ),
} as const;

export const datasets = { ...sources, mixture } as const;

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
    case "sounds":
      return sounds.find(config);
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
  return config.type === "mixture"
    ? openMixture(config, split, seed, options)
    : openSource(config, split, seed, options);
}

async function openMixture(
  config: Extract<DatasetConfig, { type: "mixture" }>,
  split: "train" | "validation",
  seed: number,
  options: OpenOptions,
): Promise<Dataset> {
  const names = Object.keys(config.sources);
  for (const name of [...Object.keys(config.weights), ...Object.keys(config.final_weights)]) {
    if (!names.includes(name)) {
      throw new UserError(`the mixture has no source ${name}`, `There are ${names.join(", ")}.`);
    }
  }
  const opened = await Promise.all(
    names.map(async (name) => {
      const dataset = await openSource(config.sources[name]!, split, seed, options);
      const weight = config.weights[name] ?? 1;
      return { name, dataset, weight, final: config.final_weights[name] ?? weight };
    }),
  );
  const training = split === "train";
  const { frames, height, width } = config;
  return mix(split, opened, {
    size: training ? config.size : config.validation_size,
    over: training ? config.schedule_epochs : 0,
    balanced: config.balance === "classes",
    seed: training ? seed : 0,
    frames,
    height,
    width,
  });
}

function openSource(
  config: Exclude<DatasetConfig, { type: "mixture" }>,
  split: "train" | "validation",
  seed: number,
  options: OpenOptions,
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
    case "sounds":
      return sounds.open(config, split, seed);
  }
}
