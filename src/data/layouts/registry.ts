/**
 * @file The layouts of known data sets. A layout lists what a folder holds; what happens with the
 * items is the same for all (clip-set.ts). A new one is an object here and a preset in
 * configs/datasets/.
 */

import { component, type Static } from "../../config/schema.ts";
import type { Listing } from "../listing.ts";
import { hmdb51, kth, ucf101 } from "./actions.ts";
import { kinetics, msrVtt, ssv2 } from "./annotated.ts";
import { imageFolder, imagenet, lsun, miniImagenet, npyVideos } from "./images.ts";
import { bair, davis, nuscenes, objectron, sequences } from "./scenes.ts";
import { webdataset } from "./webdataset.ts";

export const layouts = {
  ucf101,
  hmdb51,
  kth,
  kinetics,
  ssv2,
  "msr-vtt": msrVtt,
  bair,
  nuscenes,
  objectron,
  davis,
  sequences,
  imagenet,
  "mini-imagenet": miniImagenet,
  lsun,
  "image-folder": imageFolder,
  npy: npyVideos,
  webdataset,
} as const;

export const layoutSchema = component(
  "layouts",
  layouts,
  "How the files of the set are arranged, named and split.",
);

export type LayoutConfig = Static<typeof layoutSchema>;

/** What a folder of this layout holds. @throws UserError when it is not there or not complete enough */
export function listLayout(root: string, config: LayoutConfig): Listing {
  // Each member's `list` takes the config of its own type.
  const layout = layouts[config.type] as {
    readonly list: (root: string, config: LayoutConfig) => Listing;
  };
  return layout.list(root, config);
}

/** The rate that a set is known for. */
export function layoutRate(config: LayoutConfig): number | undefined {
  const layout = layouts[config.type];
  return layout.fps;
}
