/**
 * @file Suite `super-resolution`: how near enlarged clips come to the large ones, given the small clip's
 * true tokens and given a generator's. What a generator makes of nothing has no true large clip, so here it
 * makes a share of the small tokens and is given the rest and the caption; clips from the caption alone are
 * judged by their factors. Beside each PSNR stands that of interpolating the very same small clip.
 *
 * The first generator is the one that a student learned from (objectives/super-resolution); scores with
 * the others say whether that serves another generator too.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Sample } from "../data/dataset.ts";
import { isSuperResolution } from "../objectives/super-resolution/objective.ts";
import { Random } from "../runtime/random.ts";
import { int32, sizeOf, uint8 } from "../runtime/tensors.ts";
import { enlargeClip, reduceClip } from "../tokenizers/low-resolution.ts";
import { chooseClips, clipKeys, clipSampling, samplingKey, toBytes } from "./clips.ts";
import { factorNames, fitFactorReader } from "./factor-reader.ts";
import { accuracy, reconstructions } from "./factors-suite.ts";
import { captionIds } from "./generation.ts";
import { score } from "./protocols.ts";
import { frameErrors, psnrPerFrame } from "./psnr.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("super-resolution"),
    ...clipKeys,
    ...samplingKey,
    clips: Type.Integer({
      minimum: 1,
      default: 96,
      description: "Clips; all of the split when it has fewer.",
    }),
    remade: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.75,
      description: "Share of the small tokens that a generator makes anew.",
    }),
    train_clips: Type.Integer({
      minimum: 0,
      default: 960,
      description:
        "Training clips that the reader of factors is fitted on (moving-shapes); 0 reads no factors.",
    }),
  },
  {
    description: "Enlarged clips against the true ones, from true and from generated small clips.",
  },
);
export type SuperResolutionSuiteConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: SuperResolutionSuiteConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(
  config: SuperResolutionSuiteConfig,
  name: string,
  context: EvalContext,
): Promise<Score[]> {
  const { tokenizer, objective, device, batch } = context;
  if (objective === undefined || !isSuperResolution(objective)) {
    throw new UserError(
      "the suite super-resolution judges objectives of super-resolution only",
      `switch it off with evals.${name}=null`,
    );
  }
  const { low, factor, generators } = objective;
  const dataset = await context.dataset(config.split);
  const rows = Array.from(chooseClips(dataset.size, config.clips, config.seed));
  const samples = await Promise.all(rows.map((index) => dataset.get(index, 0)));
  const truth = samples.map(({ clip }) => clip);
  const texts = captionIds(objective, samples);
  const textLength = texts.length / samples.length;
  const cascade = objective.cascade(device);
  const shape = tokenizer.clip;
  const small = samples.map(({ clip }) => reduceClip(clip, shape, factor));
  const lowTokens = sizeOf(low.grid) * low.factors.length;
  const steps = Math.ceil(samples.length / batch);
  let done = 0;
  const tick = (what: string): void => context.progress(what, ++done, steps * (1 + 2 * generators));

  /** Work on all samples batch by batch; the last batch is filled up with its last sample. */
  async function inBatches<T>(
    what: string,
    work: (rows: readonly number[], seed: number) => Promise<readonly T[]>,
  ): Promise<T[]> {
    const all: T[] = [];
    for (let from = 0; from < samples.length; from += batch) {
      const rows = Array.from({ length: batch }, (_, i) => Math.min(from + i, samples.length - 1));
      const seed = new Random(config.seed, `eval/super/${what}`, from).uint32();
      all.push(...(await work(rows, seed)).slice(0, samples.length - from));
    }
    return all;
  }
  const pick = (values: Int32Array, rows: readonly number[], width: number): Int32Array => {
    const out = new Int32Array(rows.length * width);
    rows.forEach((row, i) => out.set(values.subarray(row * width, (row + 1) * width), i * width));
    return out;
  };
  const pieces = <T extends Uint8Array | Int32Array>(all: T, count: number): T[] => {
    const length = all.length / count;
    return Array.from({ length: count }, (_, i) => all.slice(i * length, (i + 1) * length) as T);
  };
  const join = (parts: readonly Int32Array[]): Int32Array =>
    Int32Array.from(parts.flatMap((part) => [...part]));

  const encoded = join(
    await inBatches("encode", async (chosen) => {
      const { frames, height, width } = low.clip;
      const bytes = new Uint8Array(chosen.flatMap((row) => [...small[row]!]));
      const { ids } = await tokenizerFunctions(device, low).encode(
        uint8([batch, frames, height, width, 3], bytes),
      );
      return pieces(ids, batch);
    }),
  );

  /** Enlarged clips, and the same small tokens decoded and interpolated. */
  async function enlarged(what: string, tokens: Int32Array) {
    const made = await inBatches(`large/${what}`, async (chosen, seed) => {
      const ids = pick(tokens, chosen, lowTokens);
      const large = await cascade.large({
        low: ids,
        texts: pick(texts, chosen, textLength),
        size: batch,
        seed,
      });
      const clips = await tokenizerFunctions(device, tokenizer).decode(
        int32([batch, ...tokenizer.grid, tokenizer.factors.length], large),
      );
      const plain = await tokenizerFunctions(device, low).decode(
        int32([batch, ...low.grid, low.factors.length], ids),
      );
      tick(what);
      const smallClips = pieces(toBytes(plain), batch);
      return pieces(toBytes(clips), batch).map((clip, i) => ({
        clip,
        interpolated: enlargeClip(smallClips[i]!, shape, factor),
      }));
    });
    return {
      clips: made.map(({ clip }) => clip),
      interpolated: made.map(({ interpolated }) => interpolated),
    };
  }

  /** Small tokens by a generator, of which a share is given. */
  const generated = async (generator: number, remade: number): Promise<Int32Array> =>
    join(
      await inBatches(`small/${generator}/${remade}`, async (chosen, seed) => {
        const tokens = sizeOf(low.grid);
        const ids = pick(encoded, chosen, lowTokens);
        const known = new Uint8Array(batch * tokens).fill(1);
        for (let b = 0; b < batch; b++) {
          const order = new Random(seed, "eval/super/hidden", b).permutation(tokens);
          for (const place of order.subarray(0, Math.round(remade * tokens))) {
            known[b * tokens + place] = 0;
          }
        }
        const texted = pick(texts, chosen, textLength);
        const condition = { ids, known };
        return pieces(
          await cascade.small({ generator, texts: texted, size: batch, seed, condition }),
          batch,
        );
      }),
    );

  const choices = {
    split: config.split,
    clips: samples.length,
    sampling: clipSampling,
    sampling_seed: config.seed,
    dataset: dataset.fingerprint,
    ...(config.sampling && { sampled_with: config.sampling }),
    factor,
  };
  const scores: Score[] = [];
  const compare = (of: string, clips: readonly Uint8Array[], extra: object = {}): void => {
    const each = clips.map((clip, i) => psnrPerFrame(frameErrors(truth[i]!, clip, shape.frames)));
    const value = each.reduce((sum, x) => sum + x, 0) / each.length;
    const variance = each.reduce((sum, x) => sum + (x - value) ** 2, 0) / each.length;
    scores.push(
      score(
        {
          name: `${name}/${of}/psnr`,
          value,
          unit: "dB",
          better: of === "reconstructed" || of.endsWith("interpolated") ? "none" : "higher",
          n: each.length,
          std: Math.sqrt(variance / each.length),
        },
        "super-resolution:psnr",
        { ...choices, ...extra, of },
      ),
    );
  };
  const reader = await readerOf(config, context);
  const read = (of: string, clips: readonly Uint8Array[], extra: object = {}): void => {
    if (reader === undefined) {
      return;
    }
    const right = accuracy(reader, clips, samples);
    for (const factorName of factorNames) {
      const value = 100 * right[factorName];
      scores.push(
        score(
          {
            name: `${name}/${of}/${factorName}`,
            value,
            unit: "%",
            better: of === "reconstructed" ? "none" : "higher",
            n: samples.length,
            std: Math.sqrt((value * (100 - value)) / samples.length),
          },
          "factors:moving-shapes",
          { ...choices, ...extra, train_clips: config.train_clips, of, factor: factorName },
        ),
      );
    }
  };

  const reconstructed = await reconstructions(context, samples);
  compare("reconstructed", reconstructed);
  read("reconstructed", reconstructed);
  const own = await enlarged("true", encoded);
  compare("true", own.clips);
  compare("true/interpolated", own.interpolated);
  read("true", own.clips);
  for (let i = 0; i < generators; i++) {
    const extra = { remade: config.remade };
    const partly = await enlarged(`generator${i}`, await generated(i, config.remade));
    compare(`generator${i}`, partly.clips, extra);
    compare(`generator${i}/interpolated`, partly.interpolated, extra);
    read(`generator${i}`, partly.clips, extra);
    if (textLength > 0 && reader !== undefined) {
      const free = await enlarged(`text${i}`, await generated(i, 1));
      read(`text${i}`, free.clips, { remade: 1 });
    }
  }
  return scores;
}

/** A reader of factors, where the clips have some that it knows. */
async function readerOf(config: SuperResolutionSuiteConfig, context: EvalContext) {
  const train = await context.dataset("train");
  if (config.train_clips === 0 || train.type !== "moving-shapes") {
    return undefined;
  }
  const rows = Array.from(chooseClips(train.size, config.train_clips, config.seed));
  const real = await Promise.all(rows.map((index) => train.get(index, 0)));
  const blurred = await reconstructions(context, real);
  const all: Sample[] = [...real, ...blurred.map((clip, i) => ({ ...real[i]!, clip }))];
  return fitFactorReader(all, context.tokenizer.clip);
}
