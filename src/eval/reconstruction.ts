/**
 * @file Suite `reconstruction`: how near decoded clips are to the clips, by PSNR and SSIM, beside the
 * trivial predictor that shows each clip's mean frame at all times.
 */

import { closed, type Static, Type } from "../config/schema.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys, toBytes, toFloats } from "./clips.ts";
import { checkMsSsimSize, type MsSsimName, msSsimClip } from "./ms-ssim.ts";
import { clipChoices, score } from "./protocols.ts";
import { frameErrors, meanFrameClip, psnrPerFrame, psnrPooled } from "./psnr.ts";
import { ReconstructionGallery } from "./gallery.ts";
import { flickerOf } from "./flicker.ts";
import { type LpipsTrunk } from "../models/features/lpips.ts";
import { findWeights, missingWeights } from "./networks/published.ts";
import { openPerceptualJudge, type PerceptualJudge } from "./perceptual.ts";
import { checkSsimSize, type SsimName, ssimClip } from "./ssim.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("reconstruction"),
    ...clipKeys,
    rounding: Type.Union([Type.Literal("uint8"), Type.Literal("float")], {
      default: "uint8",
      description:
        "Judge decoded pixels rounded to bytes, as a stored video has them, or as floats clipped to the range.",
    }),
    ssim: Type.Array(
      Type.Union([
        Type.Literal("gaussian-valid"),
        Type.Literal("skimage7"),
        Type.Literal("magvit-gray"),
        Type.Literal("torchmetrics"),
      ]),
      {
        default: ["gaussian-valid"],
        uniqueItems: true,
        description: "SSIM conventions to report; the first is the score named ssim.",
      },
    ),
    ms_ssim: Type.Array(
      Type.Union([
        Type.Literal("pytorch"),
        Type.Literal("tf"),
        Type.Literal("floor"),
        Type.Literal("torchmetrics"),
      ]),
      {
        default: [],
        uniqueItems: true,
        description:
          "Multi-scale SSIM conventions to report, for frames of at least 161 pixels a side.",
      },
    ),
    lpips: Type.Array(Type.Union([Type.Literal("vgg16"), Type.Literal("alexnet")]), {
      default: [],
      uniqueItems: true,
      description:
        "Networks to report LPIPS on; each needs its published weights (`tessera weights list`), without which it is left out with a warning.",
    }),
    pictures: Type.Integer({
      minimum: 0,
      maximum: 64,
      default: 4,
      description: "How many of the best and of the worst clips to save beside their originals.",
    }),
  },
  { description: "PSNR, SSIM, LPIPS and flicker of decoded clips." },
);

export type ReconstructionConfig = Static<typeof schema>;

/** Sum and squares of one quantity over clips. */
class Average {
  #n = 0;
  #mean = 0;
  #squares = 0;

  add(value: number): void {
    this.#n += 1;
    const delta = value - this.#mean;
    this.#mean += delta / this.#n;
    this.#squares += delta * (value - this.#mean);
  }

  get count(): number {
    return this.#n;
  }

  get mean(): number {
    return this.#mean;
  }

  /** Standard error of the mean over clips; 0 for one clip. */
  get error(): number {
    return this.#n > 1 ? Math.sqrt(this.#squares / (this.#n - 1) / this.#n) : 0;
  }
}

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: ReconstructionConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(
  config: ReconstructionConfig,
  name: string,
  context: EvalContext,
): Promise<Score[]> {
  const dataset = await context.dataset(config.split);
  checkClipShape(dataset, context.tokenizer.clip);
  const { frames, height, width } = dataset;
  const shape = { height, width, channels: 3 };
  for (const convention of config.ssim) {
    checkSsimSize(convention, shape);
  }
  if (config.ms_ssim.length > 0) {
    checkMsSsimSize(shape);
  }
  const { reconstruct } = tokenizerFunctions(context.device, context.tokenizer);
  const indices = chooseClips(dataset.size, config.clips, config.seed);
  const stream = new ClipStream(dataset, indices, context.batch);
  const perFrame = new Average();
  const pooled = new Average();
  const meanFrame = new Average();
  const meanFramePooled = new Average();
  const gain = new Average();
  const similarity = new Map<SsimName, Average>(config.ssim.map((key) => [key, new Average()]));
  const multiScale = new Map<MsSsimName, Average>(
    config.ms_ssim.map((key) => [key, new Average()]),
  );
  const perceptual = config.lpips.flatMap((trunk) => openJudge(trunk, context));
  const flicker = new Average();
  const stillFlicker = new Average();
  const gallery = new ReconstructionGallery(config.pictures);
  const clipSize = frames * height * width * 3;
  let done = 0;
  for await (const batch of stream) {
    const decoded = await reconstruct(batch.clips);
    for (let i = 0; i < batch.size; i++) {
      const original = batch.clips.data.subarray(i * clipSize, (i + 1) * clipSize) as Uint8Array;
      const pixels = decoded.subarray(i * clipSize, (i + 1) * clipSize);
      const judged = config.rounding === "uint8" ? toBytes(pixels) : toFloats(pixels);
      const errors = frameErrors(original, judged, frames);
      const still = frameErrors(
        original,
        meanFrameClip(original, frames, config.rounding === "uint8"),
        frames,
      );
      perFrame.add(psnrPerFrame(errors));
      pooled.add(psnrPooled(errors));
      meanFrame.add(psnrPerFrame(still));
      meanFramePooled.add(psnrPooled(still));
      gain.add(psnrPerFrame(errors) - psnrPerFrame(still));
      for (const [convention, average] of similarity) {
        average.add(ssimClip(original, judged, frames, shape, convention));
      }
      for (const [convention, average] of multiScale) {
        average.add(msSsimClip(original, judged, frames, shape, convention));
      }
      for (const judge of perceptual) {
        judge.average.add(await judge.distance(original, judged, [frames, height, width, 3]));
      }
      const { all, still: resting } = flickerOf(original, judged, frames);
      flicker.add(all);
      if (resting !== undefined) {
        stillFlicker.add(resting);
      }
      gallery.offer(batch.names[i]!, psnrPerFrame(errors), original, judged);
    }
    done += batch.size;
    context.progress("clips", done, indices.length);
  }
  await gallery.save(context, name, dataset);
  for (const judge of perceptual) {
    judge.dispose();
  }

  const choices = { ...clipChoices(stream, config.seed), rounding: config.rounding };
  const subject = (predicts: string): { readonly [choice: string]: unknown } => ({
    ...choices,
    predicts,
  });
  const of = (
    quantity: string,
    average: Average,
    unit: string,
  ): Omit<Score, "protocol" | "protocolHash"> => ({
    name: `${name}/${quantity}`,
    value: average.mean,
    ...(unit ? { unit } : {}),
    better: "higher",
    n: done,
    std: average.error,
  });
  return [
    score(of("psnr", perFrame, "dB"), "psnr:per-frame", subject("reconstruction")),
    score(of("psnr_pooled", pooled, "dB"), "psnr:pooled", subject("reconstruction")),
    ...[...similarity].map(([convention, average], i) =>
      score(
        of(i === 0 ? "ssim" : `ssim_${convention}`, average, ""),
        `ssim:${convention}`,
        subject("reconstruction"),
      ),
    ),
    ...[...multiScale].map(([convention, average], i) =>
      score(
        of(i === 0 ? "ms_ssim" : `ms_ssim_${convention}`, average, ""),
        `ms-ssim:${convention}`,
        subject("reconstruction"),
      ),
    ),
    ...perceptual.map(({ trunk, sha256, average }, i) =>
      score(
        {
          ...of(i === 0 ? "lpips" : `lpips_${trunk}`, average, ""),
          better: "lower",
        },
        `lpips:${trunk}`,
        { ...subject("reconstruction"), weights_sha256: sha256 },
      ),
    ),
    ...(frames === 1
      ? []
      : [
          score(
            { ...of("flicker", flicker, "levels"), better: "lower" },
            "flicker:differences",
            subject("reconstruction"),
          ),
        ]),
    ...(stillFlicker.count > 0
      ? [
          score(
            {
              ...of("flicker_still", stillFlicker, "levels"),
              better: "lower",
              n: stillFlicker.count,
            },
            "flicker:still-pixels",
            subject("reconstruction"),
          ),
        ]
      : []),
    // The mean frame of an image is the image.
    ...(frames === 1
      ? []
      : [
          score(
            { ...of("psnr_mean_frame", meanFrame, "dB"), better: "none" },
            "psnr:per-frame",
            subject("each clip's mean frame"),
          ),
          score(
            { ...of("psnr_pooled_mean_frame", meanFramePooled, "dB"), better: "none" },
            "psnr:pooled",
            subject("each clip's mean frame"),
          ),
          score(
            of("psnr_gain", gain, "dB"),
            "psnr:per-frame",
            subject("reconstruction minus each clip's mean frame"),
          ),
        ]),
  ];
}

interface Judge extends PerceptualJudge {
  readonly average: Average;
}

/** LPIPS on one trunk; nothing, and a warning, without its weights. */
function openJudge(trunk: LpipsTrunk, context: EvalContext): Judge[] {
  context.device.activate();
  const found = findWeights(`lpips-${trunk}`, []);
  if (!found) {
    context.warn(`lpips:${trunk}: ${missingWeights(`lpips-${trunk}`)}`);
    return [];
  }
  return [{ ...openPerceptualJudge(context.device, trunk, found), average: new Average() }];
}
