/**
 * @file Suite `frechet`: Fréchet distances of reconstructed and of generated clips to real ones, on a
 * named feature network, with the distance between two disjoint sets of real clips beside them. That
 * floor is what the sample count alone costs: a distance near it cannot be told from perfect.
 */

import { closed, type Static, Type } from "../config/schema.ts";
import type { Objective } from "../objectives/objective.ts";
import { Random } from "../runtime/random.ts";
import { type HostTensor, int32, uint8 } from "../runtime/tensors.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys, toBytes } from "./clips.ts";
import { FeatureStatistics, frechetDistance } from "./frechet.ts";
import { type FeatureNetwork, openFeatureNetwork } from "./networks/registry.ts";
import { clipChoices, score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { normalise, tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("frechet"),
    network: Type.Literal("moving-shapes-v1", {
      default: "moving-shapes-v1",
      description: "Feature network; distances on different networks are different quantities.",
    }),
    ...clipKeys,
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
    generation: Type.Boolean({
      default: true,
      description: "Also judge generated clips, when the run has a transformer.",
    }),
  },
  { description: "Fréchet distance of reconstructed and generated clips to real ones." },
);

export type FrechetConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: FrechetConfig, name: string): Suite {
  return {
    type: config.type,
    async run(context) {
      context.device.activate();
      const network = openFeatureNetwork(config.network);
      try {
        return await run(config, name, context, network);
      } finally {
        network.dispose();
      }
    },
  };
}

async function run(
  config: FrechetConfig,
  name: string,
  context: EvalContext,
  network: FeatureNetwork,
): Promise<Score[]> {
  const dataset = await context.dataset(config.split);
  checkClipShape(dataset, context.tokenizer.clip);
  const { device, batch, tokenizer } = context;
  const { reconstruct } = tokenizerFunctions(device, tokenizer);
  const extract = device.compile(`eval/features/${network.name}`, ({ clips }) => ({
    features: network.features(normalise(clips!)),
  }));
  const featuresOf = async (clips: HostTensor, size: number): Promise<Float32Array> => {
    const { features } = await extract({ clips });
    return (features!.data as Float32Array).subarray(0, size * network.dimensions);
  };
  const statistics = (): FeatureStatistics => new FeatureStatistics(network.dimensions);

  // Two disjoint sets of real clips: all is compared with the first, the second is the floor.
  const count = Math.min(config.clips, Math.floor(dataset.size / 2));
  const chosen = chooseClips(dataset.size, 2 * count, config.seed);
  const first = new ClipStream(dataset, chosen.subarray(0, count), batch);
  const second = new ClipStream(dataset, chosen.subarray(count), batch);
  const real = statistics();
  const reconstructed = statistics();
  const labels: number[] = [];
  for await (const { clips, size, labels: own } of first) {
    real.add(await featuresOf(clips, size));
    const decoded = toBytes(await reconstruct(clips));
    reconstructed.add(await featuresOf(uint8(clips.shape, decoded), size));
    labels.push(...own);
    context.progress(`${name}: real and reconstructed clips`, real.count, count);
  }
  const floor = statistics();
  for await (const { clips, size } of second) {
    floor.add(await featuresOf(clips, size));
    context.progress(`${name}: other real clips`, floor.count, count);
  }
  const generated = statistics();
  if (config.generation && context.objective) {
    for await (const { clips, size } of generate(context, context.objective, labels, config.seed)) {
      generated.add(await featuresOf(clips, size));
      context.progress(`${name}: generated clips`, generated.count, count);
    }
  }
  if (count <= network.dimensions) {
    context.progress(
      `${name}: warning: ${count} clips do not fill ${network.dimensions} feature dimensions, so the covariances are singular; the distances are finite but mean little`,
    );
  }

  const reference = real.moments(config.covariance);
  const choices = {
    ...clipChoices(first, config.seed),
    network: network.name,
    weights_sha256: network.sha256,
    covariance: config.covariance,
  };
  const of = (
    quantity: string,
    other: FeatureStatistics,
    against: { readonly [choice: string]: unknown },
  ): Score =>
    score(
      {
        name: `${name}/${quantity}`,
        // Rounding can leave equal Gaussians a hair below zero.
        value: Math.max(0, frechetDistance(reference, other.moments(config.covariance))),
        better: quantity === "real_floor" ? "none" : "lower",
        n: other.count,
      },
      `frechet:${config.network}`,
      { ...choices, ...against },
    );
  return [
    ...(generated.count > 0
      ? [
          of("generation", generated, {
            against: "as many generated clips, labels as the real clips have",
            generation_seed: config.seed,
          }),
        ]
      : []),
    of("reconstruction", reconstructed, { against: "reconstructions of the same clips" }),
    of("real_floor", floor, {
      against: "as many other real clips of the split",
      other_clips_sha256: second.digest(),
    }),
  ];
}

/** Generated clips in batches of the context's size, one for each label in turn. */
async function* generate(
  context: EvalContext,
  objective: Objective,
  labels: readonly number[],
  seed: number,
): AsyncGenerator<{ clips: HostTensor; size: number }> {
  const { device, batch, tokenizer } = context;
  const { decode } = tokenizerFunctions(device, tokenizer);
  const sample = objective.sampler(device);
  const { frames, height, width } = tokenizer.clip;
  const shape = [batch, ...tokenizer.grid, tokenizer.factors.length];
  for (let from = 0; from < labels.length; from += batch) {
    // The last batch is filled up with its last label: one shape, one compilation.
    const wanted = Int32Array.from({ length: batch }, (_, i) =>
      objective.space.classes > 0 ? labels[Math.min(from + i, labels.length - 1)]! : 0,
    );
    const ids = await sample({
      labels: wanted,
      seed: new Random(seed, "eval/generate", from).uint32(),
    });
    const decoded = toBytes(await decode(int32(shape, ids)));
    yield {
      clips: uint8([batch, frames, height, width, 3], decoded),
      size: Math.min(batch, labels.length - from),
    };
  }
}
