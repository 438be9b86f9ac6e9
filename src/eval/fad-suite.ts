/**
 * @file Suite `fad`: the Fréchet audio distance of what an audio tokenizer decodes to the sounds
 * themselves, and between two disjoint halves of a data set's sound, the floor that any generator's sound
 * is held against; `audioDistance` is the distance between any two sets. Needs the published VGGish.
 */

import { isDeepStrictEqual } from "node:util";
import type * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import {
  openVggish,
  type VggishOptions,
  vggishExamples,
  vggishFeatures,
  vggishFrontEnd,
  vggishSizes,
} from "../models/features/vggish.ts";
import type { Device } from "../runtime/device.ts";
import { float32 } from "../runtime/tensors.ts";
import { hostReconstructor } from "../tokenizers/host.ts";
import { chooseClips, clipKeys } from "./clips.ts";
import { FeatureStatistics, frechetDistance } from "./distribution/frechet.ts";
import { type FoundWeights, findWeights, missingWeights, openFound } from "./networks/published.ts";
import { score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";

export const schema = closed(
  {
    type: Type.Literal("fad"),
    ...clipKeys,
    weights: Type.String({
      default: "",
      description: "The weight file; empty looks into the folder weights ($TESSERA_WEIGHTS).",
      semantic: false,
    }),
  },
  {
    description:
      "Fréchet audio distance of an audio tokenizer's sound, and between halves of the data set's, on published weights.",
  },
);

export type FadConfig = Static<typeof schema>;

/** Turns sounds into VGGish embeddings. */
export interface SoundFeatures {
  /** Embeddings [examples, 128] of mono sound at `rate` Hz. Throws a UserError when it is too short. */
  embed(samples: Float32Array, rate: number): Promise<Float32Array>;
  readonly options: VggishOptions;
  /** Whether the network has the published one's widths. */
  readonly published: boolean;
  dispose(): void;
}

/** Linear resampling to 16 kHz of mono sound. */
export function resample(samples: Float32Array, from: number, to: number): Float32Array {
  if (from === to) {
    return samples;
  }
  const length = Math.floor((samples.length * to) / from);
  return Float32Array.from({ length }, (_, i) => {
    const at = (i * from) / to;
    const low = Math.floor(at);
    const high = Math.min(samples.length - 1, low + 1);
    return samples[low]! + (samples[high]! - samples[low]!) * (at - low);
  });
}

/** Open VGGish. The device must be active. */
export function openSoundFeatures(device: Device, found: FoundWeights): SoundFeatures {
  const weights = openFound(found);
  let vggish: ReturnType<typeof openVggish>;
  try {
    vggish = openVggish(weights);
  } finally {
    weights.close();
  }
  const run = device.compile("eval/fad", ({ examples }) => ({
    features: vggish.features(examples as tf.Tensor4D),
  }));
  return {
    options: vggish.options,
    published: isDeepStrictEqual(vggish.options, vggishSizes),
    async embed(samples, rate) {
      const sound = resample(samples, rate, vggishFrontEnd.sampleRate);
      const { features } = await run({ examples: vggishExamples(sound) });
      return features!.data as Float32Array;
    },
    dispose: () => vggish.scope.dispose(),
  };
}

/** The Fréchet distance of two sets of embeddings, unbiased covariances. */
export function audioDistance(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  const of = (sounds: readonly Float32Array[]) => {
    const statistics = new FeatureStatistics(vggishFeatures);
    for (const sound of sounds) {
      statistics.add(sound);
    }
    return statistics.moments("unbiased");
  };
  return Math.max(0, frechetDistance(of(a), of(b)));
}

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: FadConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(config: FadConfig, name: string, context: EvalContext): Promise<Score[]> {
  const dataset = await context.dataset(config.split);
  if (dataset.audioRate === 0) {
    throw new UserError(
      "the Fréchet audio distance needs sound, and the data set has none",
      `use a data set with sound (dataset=@moving-shapes-av), or switch the suite off with evals.${name}=null`,
    );
  }
  const found = findWeights("vggish", config.weights === "" ? [] : [config.weights]);
  if (!found) {
    context.warn(missingWeights("vggish"));
    return [];
  }
  const count = Math.min(config.clips, Math.floor(dataset.size / 2));
  if (count === 0) {
    throw new UserError(
      "the Fréchet audio distance needs two sets of sounds, and the split has one sound",
      `use a larger split or switch the suite off with evals.${name}=null`,
    );
  }
  context.device.activate();
  const network = openSoundFeatures(context.device, found);
  try {
    const chosen = chooseClips(dataset.size, 2 * count, config.seed);
    const decode = decoderOf(context);
    const sets: Float32Array[][] = [[], []];
    const [originals, decoded]: [Float32Array[], Float32Array[]] = [[], []];
    for (const [i, index] of chosen.entries()) {
      const { audio, id } = await dataset.get(index, 0);
      if (!audio) {
        throw new UserError(`the clip ${id} has no sound`);
      }
      sets[i < count ? 0 : 1]!.push(await network.embed(audio, dataset.audioRate));
      if (decode && i < count) {
        const part = audio.subarray(0, context.tokenizer.clip.samples);
        originals.push(await network.embed(part, dataset.audioRate));
        decoded.push(await network.embed(await decode(part), dataset.audioRate));
      }
      context.progress("sounds", i + 1, chosen.length);
    }
    const rows = sets[0]!.reduce((sum, part) => sum + part.length, 0) / vggishFeatures;
    if (rows <= vggishFeatures) {
      context.warn(
        `${rows} examples do not fill ${vggishFeatures} feature dimensions: the distance is finite but depends on the count more than on the sound`,
      );
    }
    if (!network.published) {
      context.warn(
        `${found.paths.join()} is not VGGish by its widths: its scores are named fad:other and compare with none published`,
      );
    }
    const of = (quantity: string, value: number, better: Score["better"], subject: string): Score =>
      score(
        { name: `${name}/${quantity}`, value, better, n: count },
        network.published ? "fad:vggish" : "fad:other",
        {
          dataset: { type: dataset.type, size: dataset.size, rate: dataset.audioRate },
          split: dataset.split,
          clips: count,
          sampling_seed: config.seed,
          fingerprint: dataset.fingerprint,
          weights_sha256: found.sha256,
          ...(network.published ? {} : { network: network.options }),
          of: subject,
        },
      );
    const floor = audioDistance(sets[0]!, sets[1]!);
    return [
      ...(decode
        ? [of("reconstruction", audioDistance(originals, decoded), "lower", "decoded sounds against themselves")] // biome-ignore format: one score
        : []),
      of("real_floor", floor, "none", "two disjoint sets of real sounds"),
    ];
  } finally {
    network.dispose();
  }
}

/** Sound through an audio tokenizer and back; nothing for tokenizers of pictures. */
function decoderOf({
  tokenizer,
  device,
}: EvalContext): ((sound: Float32Array) => Promise<Float32Array>) | undefined {
  const { samples } = tokenizer.clip;
  if (tokenizer.modality !== "audio" || !samples) {
    return undefined;
  }
  const reconstruct = hostReconstructor(device, tokenizer, "eval/fad/reconstruct");
  return async (sound) => {
    const input = new Float32Array(samples);
    input.set(sound);
    const { data } = await reconstruct(float32([1, samples, 1, 1, 1], input));
    return (data as Float32Array).slice(0, sound.length);
  };
}
