/**
 * @file Suite `frechet`: Fréchet distances of reconstructed and of generated clips to real ones, on a
 * named feature network, with the distance between two disjoint sets of real clips beside them. That
 * floor is what the sample count alone costs: a distance near it cannot be told from perfect.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Objective } from "../objectives/objective.ts";
import { Random } from "../runtime/random.ts";
import { type HostTensor, int32, uint8 } from "../runtime/tensors.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys, toBytes } from "./clips.ts";
import { FeatureStatistics, frechetDistance } from "./frechet.ts";
import { kernelDistance } from "./kernel-distance.ts";
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
    kernel: Type.Boolean({
      default: true,
      description:
        "Also report kernel distances (KVD's form) on the same features: unbiased, so fewer clips do.",
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
  const featureSet = (): FeatureSet => new FeatureSet(network.dimensions, config.kernel);

  // Two disjoint sets of real clips: all is compared with the first, the second is the floor.
  const count = Math.min(config.clips, Math.floor(dataset.size / 2));
  if (count < 2) {
    throw new UserError(
      `a Fréchet distance needs two disjoint sets of at least 2 clips, the ${config.split} split has ${dataset.size}`,
      `use a larger split, or switch the suite off with evals.${name}=null`,
    );
  }
  const chosen = chooseClips(dataset.size, 2 * count, config.seed);
  const first = new ClipStream(dataset, chosen.subarray(0, count), batch);
  const second = new ClipStream(dataset, chosen.subarray(count), batch);
  const real = featureSet();
  const reconstructed = featureSet();
  const labels: number[] = [];
  for await (const { clips, size, labels: own } of first) {
    real.add(await featuresOf(clips, size));
    const decoded = toBytes(await reconstruct(clips));
    reconstructed.add(await featuresOf(uint8(clips.shape, decoded), size));
    labels.push(...own);
    context.progress("real and reconstructed clips", real.count, count);
  }
  const floor = featureSet();
  for await (const { clips, size } of second) {
    floor.add(await featuresOf(clips, size));
    context.progress("other real clips", floor.count, count);
  }
  const generated = featureSet();
  const byLabel = !context.objective?.tasks || context.objective.tasks.names.includes("CG");
  if (config.generation && context.objective && !byLabel) {
    context.warn(
      "the transformer has no task without a condition: generation is judged by `tasks`",
    );
  } else if (config.generation && context.objective) {
    for await (const { clips, size } of generate(context, context.objective, labels, config.seed)) {
      generated.add(await featuresOf(clips, size));
      context.progress("generated clips", generated.count, count);
    }
  }
  if (count <= network.dimensions) {
    context.progress(
      `warning: ${count} clips do not fill ${network.dimensions} feature dimensions, so the covariances are singular; the distances are finite but mean little`,
    );
  }

  const choices = {
    ...clipChoices(first, config.seed),
    network: network.name,
    weights_sha256: network.sha256,
  };
  const compared: { quantity: string; set: FeatureSet; against: Choices }[] = [
    {
      quantity: "generation",
      set: generated,
      against: {
        against: "as many generated clips, labels as the real clips have",
        generation_seed: config.seed,
      },
    },
    {
      quantity: "reconstruction",
      set: reconstructed,
      against: { against: "reconstructions of the same clips" },
    },
    {
      quantity: "real_floor",
      set: floor,
      against: {
        against: "as many other real clips of the split",
        other_clips_sha256: second.digest(),
      },
    },
  ];
  const reference = real.statistics.moments(config.covariance);
  return compared
    .filter(({ set }) => set.count > 0)
    .flatMap(({ quantity, set, against }) => {
      const better = quantity === "real_floor" ? "none" : "lower";
      const distance = frechetDistance(reference, set.statistics.moments(config.covariance));
      return [
        score(
          // Rounding can leave equal Gaussians a hair below zero.
          { name: `${name}/${quantity}`, value: Math.max(0, distance), better, n: set.count },
          `frechet:${config.network}`,
          { ...choices, covariance: config.covariance, ...against },
        ),
        ...(config.kernel
          ? [
              score(
                {
                  name: `${name}/kernel_${quantity}`,
                  value: kernelDistance(real.rows(), set.rows(), network.dimensions),
                  better,
                  n: set.count,
                },
                `kernel:${config.network}`,
                { ...choices, ...against },
              ),
            ]
          : []),
      ];
    });
}

type Choices = { readonly [choice: string]: unknown };

/** Features of one set of clips: their moments and, for the kernel distance, the features themselves. */
class FeatureSet {
  readonly statistics: FeatureStatistics;
  readonly #kept: Float32Array[] = [];

  constructor(
    dimensions: number,
    readonly keep: boolean,
  ) {
    this.statistics = new FeatureStatistics(dimensions);
  }

  get count(): number {
    return this.statistics.count;
  }

  add(features: Float32Array): void {
    this.statistics.add(features);
    if (this.keep) {
      this.#kept.push(features.slice());
    }
  }

  /** [count, dimensions] */
  rows(): Float64Array {
    const rows = new Float64Array(this.count * this.statistics.dimensions);
    let at = 0;
    for (const part of this.#kept) {
      rows.set(part, at);
      at += part.length;
    }
    return rows;
  }
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
