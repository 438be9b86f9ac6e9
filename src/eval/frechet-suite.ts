/**
 * @file Suite `frechet`: Fréchet distances of reconstructed and of generated clips to real ones on a
 * stand-in feature network that comes with the framework, under its own name.
 */

import { closed, type Static, Type } from "../config/schema.ts";
import { openStandIn } from "./distribution/extractors.ts";
import { distributionKeys, judgeDistributions } from "./distribution/judge.ts";
import type { Suite } from "./suite.ts";

export const schema = closed(
  {
    type: Type.Literal("frechet"),
    network: Type.Literal("moving-shapes-v1", {
      default: "moving-shapes-v1",
      description: "Feature network; distances on different networks are different quantities.",
    }),
    ...distributionKeys,
    clips: Type.Integer({
      minimum: 2,
      default: 256,
      description:
        "Real clips, and as many reconstructed and generated ones; half of the split when it has fewer than twice as many. Distances depend on this number.",
    }),
    covariance: Type.Union([Type.Literal("unbiased"), Type.Literal("biased")], {
      default: "unbiased",
      description: "Divide scatter by N - 1 (TF-GAN, MAGVIT) or by N (StyleGAN-V).",
    }),
    repeats: Type.Integer({
      minimum: 1,
      default: 1,
      description: "Times that clips are generated, under other seeds; the score is the mean.",
    }),
  },
  {
    description:
      "Fréchet distance of reconstructed and generated clips to real ones, on a stand-in network.",
  },
);

export type FrechetConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: FrechetConfig, name: string): Suite {
  return {
    type: config.type,
    async run(context) {
      context.device.activate();
      const extractor = openStandIn(context.device, config.network);
      const { covariance, repeats, network } = config;
      const protocols = {
        frechet: `frechet:${network}`,
        kernel: `kernel:${network}`,
        neighbours: `neighbours:${network}`,
      } as const;
      try {
        const options = { name, config, extractor, covariance, repeats, protocols };
        return await judgeDistributions(options, context);
      } finally {
        extractor.dispose();
      }
    },
  };
}
