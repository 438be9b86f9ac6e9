/**
 * @file The test sequences that codecs are compared on, as named protocols: MCL-JCV (Wang et al. 2016; 30
 * sequences of 1080p) and UVG (Mercat et al. 2020; 7 of 1080p), at 640×360 as in MAGVIT-v2 (§4.3) and
 * as they are. A sequence is one video: its tokens are one file, a codec's stream is one stream, and
 * rates and qualities are averaged over sequences.
 */

import { closed, type Static, Type } from "../../config/schema.ts";
import { Value } from "typebox/value";
import type { Dataset } from "../../data/dataset.ts";
import { open, schema, type VideoSetConfig } from "../../data/video-set.ts";

const sets = {
  "mcl-jcv-640x360": { set: "mcl-jcv", height: 360, width: 640 },
  "mcl-jcv-native": { set: "mcl-jcv", height: 1080, width: 1920 },
  "uvg-640x360": { set: "uvg", height: 360, width: 640 },
  "uvg-native": { set: "uvg", height: 1080, width: 1920 },
} as const;
export type SequenceProtocol = keyof typeof sets;
export const sequenceProtocols = Object.keys(sets) as SequenceProtocol[];

export const sequencesSchema = closed(
  {
    protocol: Type.Enum([...sequenceProtocols], {
      description:
        "The set and its size. 640x360: colours by BT.709 limited range in float64, bilinear with antialiasing, which no paper states; native: 1920x1080, not scaled.",
    }),
    path: Type.String({ minLength: 1, description: "Folder of the .y4m or .yuv files." }),
    frames: Type.Integer({
      minimum: 1,
      default: 120,
      description:
        "First frames of each sequence; part of the protocol. MCL-JCV's have 120 to 150, UVG's 300 or 600.",
    }),
  },
  { description: "Whole test sequences in place of the split's clips." },
);
export type SequencesConfig = Static<typeof sequencesSchema>;

/** The sequences, one clip each. @throws UserError when the folder has none that is long enough */
export function openSequences({ protocol, path, frames }: SequencesConfig): Promise<Dataset> {
  const { set, height, width } = sets[protocol];
  const config = {
    type: "video-set",
    path,
    layout: { type: "sequences", set },
    frames,
    height,
    width,
    filter: "bilinear-antialias",
    colour: "bt709",
    range: "limited",
    conversion: "formula",
    held_out_sampling: "start",
    verify: "quick",
    workers: 0,
  };
  return open(Value.Default(schema, config) as VideoSetConfig, "validation", 0);
}
