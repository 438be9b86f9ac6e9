/**
 * @file `video-set`: known data sets by the layout that their authors publish: UCF-101, Kinetics, BAIR,
 * ImageNet, WebDataset shards, ... (layouts/registry.ts).
 */

import { closed, type Static, Type } from "../config/schema.ts";
import { clipSetKeys, openClips } from "./clip-set.ts";
import type { Dataset } from "./dataset.ts";
import { layoutRate, layoutSchema, listLayout } from "./layouts/registry.ts";
import { existing, type Listing, type Split } from "./listing.ts";

export const schema = closed(
  {
    type: Type.Literal("video-set"),
    path: Type.String({
      minLength: 1,
      description: "Folder of the set, as its authors lay it out.",
    }),
    layout: layoutSchema,
    ...clipSetKeys,
    validation_fraction: Type.Number({
      exclusiveMinimum: 0,
      exclusiveMaximum: 1,
      default: 0.1,
      description: "Share of items for validation where the layout states no splits.",
    }),
  },
  { description: "Clips and pictures of known data sets, by their published layout." },
);

export type VideoSetConfig = Static<typeof schema>;

/** Open one split. @param seed the run's seed: random places of training clips follow it */
export function open(
  config: VideoSetConfig,
  split: Split,
  seed: number,
  refresh = false,
): Promise<Dataset> {
  const { path, layout, validation_fraction } = config;
  const fps = layoutRate(layout);
  return openClips(
    config,
    {
      type: layout.type,
      where: path,
      list: () => find(config),
      key: { path, layout },
      identity: { layout, validation_fraction },
      validationFraction: validation_fraction,
      ...(fps !== undefined && { fps }),
      refresh,
    },
    split,
    seed,
  );
}

/** What the folder holds. */
export function find({ path, layout }: VideoSetConfig): Listing {
  return listLayout(existing(path, "dataset.path"), layout);
}
