/**
 * @file Suite `compression`: the tokenizer as a codec, beside video codecs. Sizes are those of real
 * files, decoded again and compared; qualities are of the decoded pictures. The points go into
 * `rate-distortion.json`, from which the run's page draws its chart.
 *
 * Held-out clips stand one after another in one video, for us as for the codecs, so that headers
 * weigh the same on both sides; small clips stand beside each other too for the codecs, which are not
 * made for pictures of a few blocks (compression/mosaic.ts). Rates are bits a pixel of the original. With `sequences` each of a
 * known set's is a video, cut into tiles for the tokenizer and whole for the codecs; then rates and
 * qualities are means over sequences, at one setting.
 */

import { join } from "node:path";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Dataset } from "../data/dataset.ts";
import { writeLossless } from "../data/video.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys } from "./clips.ts";
import { readBitstream, writeBitstream } from "./compression/bitstream.ts";
import { bjontegaard, qualityAt, rateAt, type RatePoint } from "./compression/bjontegaard.ts";
import { TokenCodec, type TokenVideo } from "./compression/codec.ts";
import { openSequences, sequencesSchema } from "./compression/sequences.ts";
import { type CodecName, codecNames, codecs, findCodecs } from "./compression/codecs.ts";
import {
  openLpipsJudge,
  type PictureQuality,
  type QualityJudge,
  qualityJudge,
} from "./compression/quality.ts";
import { fromMosaic, mosaicGrid, mosaicOf } from "./compression/mosaic.ts";
import { CoderFailure, codeInOwnProcess } from "./compression/own-process.ts";
import { clipChoices, type ProtocolName, score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { writeFileAtomic } from "../runtime/files.ts";

export const schema = closed(
  {
    type: Type.Literal("compression"),
    ...clipKeys,
    clips: Type.Integer({
      minimum: 1,
      default: 16,
      description: "How many clips; all of the split when it has fewer.",
    }),
    sequences: Type.Optional(sequencesSchema),
    lpips: Type.Optional(
      Type.Union([Type.Literal("alexnet"), Type.Literal("vgg16")], {
        description: "LPIPS of every point too, on this trunk. Needs its published weights.",
      }),
    ),
    codecs: Type.Array(Type.Enum([...codecNames]), {
      uniqueItems: true,
      default: ["x264", "x265", "svt-av1", "vp9"],
      description:
        "Video codecs to compare with. One that is not on this machine is left out with a warning.",
    }),
  },
  { description: "Real file sizes of the tokens, and rate-distortion beside video codecs." },
);

export type CompressionConfig = Static<typeof schema>;

/** One measured point: a file size and what its pictures are worth. */
export interface RatePicture extends PictureQuality {
  /** "tokens: <code>" for ours, else the codec. */
  readonly series: string;
  /** Quality setting of a codec. */
  readonly setting?: number;
  readonly bytes: number;
  /** Bits a pixel. */
  readonly bpp: number;
  /** Coding and decoding once, on this machine at that time. */
  readonly seconds?: number;
  /** The most memory of the codec's process. */
  readonly peak_bytes?: number;
}

/** What `rate-distortion.json` holds. */
export interface RateDistortion {
  /** SHA-256 of the clips' pixels: only records of equal clips can stand in one chart. */
  readonly clips_sha256: string;
  /** The set of sequences, over which points are means. */
  readonly sequences?: string;
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  readonly fps: number;
  readonly points: readonly RatePicture[];
  readonly settings: { readonly [codec: string]: string };
  /** BD-rate of each codec against the first, percent by interpolation; null where not defined. */
  readonly bd_rate: {
    readonly [codec: string]: { readonly [interpolation: string]: number | null };
  };
}

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: CompressionConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(
  config: CompressionConfig,
  name: string,
  context: EvalContext,
): Promise<Score[]> {
  const { sequences } = config;
  if (sequences === undefined) {
    const dataset = await context.dataset(config.split);
    checkClipShape(dataset, context.tokenizer.clip);
    return measure(config, name, context, dataset);
  }
  const dataset = await openSequences(sequences);
  try {
    return await measure(config, name, context, dataset);
  } finally {
    await dataset.close();
  }
}

async function measure(
  config: CompressionConfig,
  name: string,
  context: EvalContext,
  dataset: Dataset,
): Promise<Score[]> {
  const { frames, height, width } = dataset;
  const { device, tokenizer, objective, batch } = context;
  const whole = config.sequences !== undefined;
  const indices = whole
    ? Uint32Array.from({ length: dataset.size }, (_, i) => i)
    : chooseClips(dataset.size, config.clips, config.seed);
  const stream = new ClipStream(dataset, indices, whole ? 1 : batch);
  const codec = new TokenCodec({
    device,
    tokenizer,
    batch,
    ...(objective && { objective }),
    onProgress: (what, clips, total) => context.progress(what, clips, total),
  });
  const found = config.codecs.length > 0 ? await findCodecs() : new Map<CodecName, string>();
  for (const anchor of config.codecs) {
    const problem = found.get(anchor);
    if (problem !== undefined) {
      context.warn(`no curve of ${anchor}: ${problem}`);
    }
  }
  const anchors = new Set(config.codecs.filter((anchor) => found.get(anchor) === undefined));
  const videos: RatePicture[][] = [];
  const perceptual = config.lpips && openLpipsJudge(config.lpips, context);
  for await (const originals of videosOf(stream, whole)) {
    const judge = qualityJudge(dataset, originals, perceptual);
    const points = await tokenPoints(codec, dataset, originals, judge);
    if (!whole && anchors.size > 0) {
      await keepPictures(context, dataset, originals);
    }
    for (const anchor of anchors) {
      try {
        points.push(...(await anchorPoints(anchor, context, dataset, originals, judge)));
      } catch (error) {
        if (!(error instanceof CoderFailure)) {
          throw error;
        }
        context.warn(`no curve of ${anchor}: ${error.message}`);
        anchors.delete(anchor);
      }
    }
    videos.push(points);
  }
  perceptual?.dispose();
  // A codec that failed on one video has no mean.
  const points = meanPoints(
    videos.map((video) =>
      video.filter(({ series }) => series.startsWith("tokens") || anchors.has(series as CodecName)),
    ),
  );
  const tiles = mosaicGrid(height, width);
  const settingsOf = (anchor: CodecName): string =>
    tiles.rows * tiles.columns === 1
      ? codecs[anchor].settings
      : `${codecs[anchor].settings}; ${tiles.rows}×${tiles.columns} clips in a picture`;
  const shared = whole
    ? {
        sequences: config.sequences!.protocol,
        first_frames: frames,
        pixels_sha256: stream.digest(),
        mean: "over sequences",
      }
    : clipChoices(stream, config.seed);
  const scores: Score[] = [];
  const of = (
    quantity: string,
    value: number,
    unit: string,
    better: Score["better"],
    protocol: ProtocolName,
    choices: object = {},
  ): void => {
    const measured = { name: `${name}/${quantity}`, value, unit, better, n: indices.length };
    scores.push(score(measured, protocol, { ...shared, ...choices }));
  };
  for (const { series, bpp } of points) {
    const code = codec.codes.find((one) => series === `tokens: ${one}`);
    if (code) {
      of(`${code}_bpp`, bpp, "bits/pixel", "lower", `bitstream:${code}`);
    }
  }
  of("psnr", points[0]!.psnr, "dB", "higher", "psnr:per-frame", { average: "dB over all frames" });

  const ours = points
    .filter(({ series }) => series.startsWith("tokens"))
    .reduce((a, b) => (b.bytes < a.bytes ? b : a));
  for (const anchor of config.codecs) {
    const curve = curveOf(points, anchor);
    if (curve.length < 2) {
      continue;
    }
    const choices = { anchor: settingsOf(anchor), ours: ours.series };
    const equal = rateAt(curve, ours.psnr);
    const gained = qualityAt(curve, ours.bpp);
    if (equal !== undefined) {
      const percent = (ours.bpp / equal - 1) * 100;
      of(`rate_against_${anchor}`, percent, "%", "lower", "rd:rate-at-psnr", choices);
    }
    if (gained !== undefined) {
      const gain = ours.psnr - gained;
      of(`psnr_against_${anchor}`, gain, "dB", "higher", "rd:psnr-at-rate", choices);
    }
    if (equal === undefined || gained === undefined) {
      context.warn(
        `${anchor} is not compared at equal ${equal === undefined ? "PSNR" : "rate"}: its curve spans ${range(curve.map((p) => p.quality))} dB and ${range(curve.map((p) => p.rate))} bits a pixel, our smallest file has ${ours.psnr.toFixed(2)} dB and ${ours.bpp.toFixed(4)} bits a pixel`,
      );
    }
  }
  const record: RateDistortion = {
    clips_sha256: stream.digest(),
    frames: indices.length * frames,
    ...(whole && { sequences: config.sequences!.protocol }),
    height,
    width,
    fps: dataset.fps,
    points,
    settings: Object.fromEntries(config.codecs.map((anchor) => [anchor, settingsOf(anchor)])),
    bd_rate: deltas(points, config.codecs),
  };
  writeFileAtomic(
    join(context.samplesDir(), "rate-distortion.json"),
    `${JSON.stringify(record, null, 1)}\n`,
  );
  return scores;
}

const range = (values: readonly number[]): string =>
  `${Math.min(...values).toPrecision(4)} to ${Math.max(...values).toPrecision(4)}`;

const rate = (bytes: number, originals: Uint8Array): { bpp: number } => ({
  bpp: (bytes * 8) / (originals.length / 3),
});

/** The pixels of each video: every clip by itself, or all after one another. */
async function* videosOf(stream: ClipStream, whole: boolean): AsyncGenerator<Uint8Array> {
  const { frames, height, width } = stream.dataset;
  const size = frames * height * width * 3;
  const all = new Uint8Array(whole ? 0 : stream.indices.length * size);
  let at = 0;
  for await (const { clips, size: count } of stream) {
    const pixels = (clips.data as Uint8Array).subarray(0, count * size);
    if (whole) {
      yield pixels;
    } else {
      all.set(pixels, at);
      at += pixels.length;
    }
  }
  if (!whole) {
    yield all;
  }
}

/** Our point of each code: a file that was decoded again. */
async function tokenPoints(
  codec: TokenCodec,
  { height, width, fps }: Dataset,
  originals: Uint8Array,
  judge: QualityJudge,
): Promise<RatePicture[]> {
  const size = codec.spanFrames * height * width * 3;
  const spans = function* (): Generator<Uint8Array> {
    for (let at = 0; at < originals.length; at += size) {
      yield originals.subarray(at, at + size);
    }
  };
  const started = performance.now();
  const video = await codec.tokenize(spans(), { height, width, fps });
  const decoded = await decode(codec, video, originals.length);
  const shared = performance.now() - started;
  const quality = await judge(decoded);
  const points: RatePicture[] = [];
  for (const code of codec.codes) {
    const packing = performance.now();
    const bytes = writeBitstream(await codec.pack(video, code));
    // What is not decoded again is not a size.
    const back = await codec.unpack(readBitstream(bytes, `the file of code ${code}`));
    if (Buffer.compare(Buffer.from(back.ids.buffer), Buffer.from(video.ids.buffer)) !== 0) {
      throw new Error(`code ${code} did not give the tokens back`);
    }
    const seconds = (shared + performance.now() - packing) / 1000;
    points.push({ series: `tokens: ${code}`, bytes: bytes.length, ...rate(bytes.length, originals), ...quality, seconds }); // biome-ignore format: one point
  }
  return points;
}

/** The mean of the same point over videos. */
function meanPoints(videos: readonly (readonly RatePicture[])[]): RatePicture[] {
  const mean = (i: number, key: MeanKey): number =>
    videos.reduce((sum, points) => sum + points[i]![key]!, 0) / videos.length;
  return videos[0]!.map((point, i) => ({
    ...point,
    ...Object.fromEntries(
      meanKeys.filter((key) => point[key] !== undefined).map((key) => [key, mean(i, key)]),
    ),
    ...(point.peak_bytes !== undefined && {
      peak_bytes: Math.max(...videos.map((points) => points[i]!.peak_bytes!)),
    }),
  }));
}

const meanKeys = ["bytes", "bpp", "psnr", "ssim", "ms_ssim", "lpips", "seconds"] as const;
type MeanKey = (typeof meanKeys)[number];

async function decode(codec: TokenCodec, video: TokenVideo, size: number): Promise<Uint8Array> {
  const all = new Uint8Array(size);
  let at = 0;
  for await (const span of codec.frames(video)) {
    all.set(span, at);
    at += span.length;
  }
  return all;
}

/** What the codecs are given, for who wants to try them by hand: `scripts/check-rates.ts` does. */
async function keepPictures(
  context: EvalContext,
  { frames, height, width, fps }: Dataset,
  originals: Uint8Array,
): Promise<void> {
  if (originals.length > mostKept) {
    return;
  }
  const clip = { data: originals, frames: originals.length / (height * width * 3), height, width };
  await writeLossless(join(context.samplesDir(), codecInput), mosaicOf(clip, frames), fps);
}

/** The file of `keepPictures`; raw pictures of more bytes are not kept. */
export const codecInput = "codecs-input.mkv";
const mostKept = 2 ** 26;

/** A codec's points. @throws CoderFailure */
async function anchorPoints(
  name: CodecName,
  context: EvalContext,
  { frames, height, width, fps }: Dataset,
  originals: Uint8Array,
  judge: QualityJudge,
): Promise<RatePicture[]> {
  const clip = { data: originals, frames: originals.length / (height * width * 3), height, width };
  const { qualities } = codecs[name];
  const points: RatePicture[] = [];
  await codeInOwnProcess(
    { name, clip: mosaicOf(clip, frames), fps, qualities },
    async ({ quality: setting, bytes, decoded, seconds, peakBytes }) => {
      const quality = await judge(fromMosaic(decoded, clip, frames));
      points.push({ series: name, setting, bytes, ...rate(bytes, originals), ...quality, seconds, peak_bytes: peakBytes }); // biome-ignore format: one point
      context.progress(name, points.length, qualities.length);
    },
  );
  return points;
}

/** A codec's curve without points that another one beats at both rate and quality. */
export function curveOf(points: readonly RatePicture[], series: string): RatePoint[] {
  const own = points
    .filter((point) => point.series === series)
    .map(({ bpp, psnr }) => ({ rate: bpp, quality: psnr }))
    .sort((a, b) => a.rate - b.rate);
  return own.filter((point, i) => own.slice(0, i).every((other) => other.quality < point.quality));
}

/** BD-rates between the codecs: they say whether the anchors stand where they should. */
function deltas(
  points: readonly RatePicture[],
  names: readonly CodecName[],
): RateDistortion["bd_rate"] {
  const [first, ...rest] = names;
  return Object.fromEntries(
    rest.map((name) => [
      name,
      Object.fromEntries(
        (["cubic", "pchip", "akima"] as const).map((interpolation) => {
          const [a, b] = [curveOf(points, first!), curveOf(points, name)];
          try {
            return [interpolation, bjontegaard(a, b, interpolation).ratePercent];
          } catch {
            return [interpolation, null]; // too few points, or no common range
          }
        }),
      ),
    ]),
  );
}
