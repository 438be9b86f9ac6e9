/**
 * @file Suite `fid`: the Fréchet inception distance of single frames (Heusel et al. 2017), which sees
 * how frames look and nothing of their order. Needs the published InceptionV3.
 */

import { closed, type Static, Type } from "../config/schema.ts";
import { openFrameExtractor } from "./distribution/extractors.ts";
import { distributionKeys, judgeDistributions } from "./distribution/judge.ts";
import { findWeights, missingWeights } from "./networks/published.ts";
import type { Suite } from "./suite.ts";

export const schema = closed(
  {
    type: Type.Literal("fid"),
    protocol: Type.Union([Type.Literal("tf-original"), Type.Literal("pytorch-fid")], {
      default: "pytorch-fid",
      description: "Whose resizing and range: the original graph's or pytorch-fid's.",
    }),
    ...distributionKeys,
    clips: Type.Integer({
      minimum: 2,
      default: 256,
      description: "Clips, all of whose frames are judged. Distances depend on this number.",
    }),
    kernel: Type.Boolean({
      default: false,
      description:
        "Also report KID on the same features; its cost grows with the square of the frames.",
    }),
    repeats: Type.Integer({
      minimum: 1,
      default: 1,
      description: "Times that clips are generated, under other seeds; the score is the mean.",
    }),
    weights: Type.String({
      default: "",
      description: "The weight file; empty looks into the folder weights ($TESSERA_WEIGHTS).",
      semantic: false,
    }),
  },
  { description: "Fréchet inception distance of frames, on published weights." },
);

export type FidConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: FidConfig, name: string): Suite {
  return {
    type: config.type,
    async run(context) {
      const found = findWeights("inception-fid", config.weights === "" ? [] : [config.weights]);
      if (!found) {
        context.warn(missingWeights("inception-fid"));
        return [];
      }
      const { device, tokenizer } = context;
      device.activate();
      const { protocol, repeats } = config;
      const extractor = openFrameExtractor(device, protocol, tokenizer.clip.frames, found);
      const protocols = {
        frechet: `fid:${protocol}`,
        kernel: `kid:${protocol}`,
        neighbours: `neighbours:${protocol}-frames`,
      } as const;
      try {
        const options = {
          name,
          config,
          extractor,
          covariance: "unbiased",
          repeats,
          protocols,
        } as const;
        return await judgeDistributions(options, context);
      } finally {
        extractor.dispose();
      }
    },
  };
}
