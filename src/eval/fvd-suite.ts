/**
 * @file Suite `fvd`: the Fréchet video distance on published weights that the user has, under the
 * protocol of one paper. Without the weights there is no score and one line that says why.
 */

import { closed, type Static, Type } from "../config/schema.ts";
import { checkFrames, openVideoExtractor } from "./distribution/extractors.ts";
import { distributionKeys, judgeDistributions } from "./distribution/judge.ts";
import { type VideoProtocol, videoProtocols } from "./distribution/video-protocols.ts";
import { findWeights, missingWeights } from "./networks/published.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";

export const schema = closed(
  {
    type: Type.Literal("fvd"),
    protocol: Type.Union(
      [
        Type.Literal("tf-original"),
        Type.Literal("magvit"),
        Type.Literal("styleganv"),
        Type.Literal("videogpt"),
        Type.Literal("tats"),
        Type.Literal("tokenbench"),
        Type.Literal("larp"),
        Type.Literal("cd-videomae"),
      ],
      {
        default: "magvit",
        description:
          "Whose definition: pixels' rounding, resizing, network, epsilon and covariance. `tessera eval --list` explains them.",
      },
    ),
    ...distributionKeys,
    clips: Type.Integer({
      minimum: 0,
      default: 0,
      description:
        "Real clips, and as many reconstructed and generated ones; 0 takes the protocol's number. Distances depend on it.",
    }),
    repeats: Type.Integer({
      minimum: 0,
      default: 0,
      description: "Times that clips are generated; 0 takes the protocol's number.",
    }),
    weights: Type.String({
      default: "",
      description:
        "The weight file; empty looks into the folder weights ($TESSERA_WEIGHTS). `tessera weights list` names the files.",
      semantic: false,
    }),
  },
  { description: "Fréchet video distance under a paper's protocol, on published weights." },
);

export type FvdConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: FvdConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(config: FvdConfig, name: string, context: EvalContext): Promise<Score[]> {
  const key = config.protocol;
  const protocol: VideoProtocol = videoProtocols[key];
  checkFrames(protocol, key, context.tokenizer.clip.frames);
  const found = findWeights(protocol.network, config.weights === "" ? [] : [config.weights]);
  if (!found) {
    context.warn(missingWeights(protocol.network));
    return [];
  }
  context.device.activate();
  const extractor = openVideoExtractor(context.device, protocol, found);
  try {
    return await judgeDistributions(
      {
        name,
        config: { ...config, clips: config.clips || protocol.clips },
        extractor,
        covariance: protocol.covariance,
        repeats: config.repeats || protocol.repeats,
        protocols: { frechet: `fvd:${key}`, kernel: `kvd:${key}`, neighbours: `neighbours:${key}` },
      },
      context,
    );
  } finally {
    extractor.dispose();
  }
}
