/**
 * @file Holds a run's curves of video codecs against the ffmpeg tool: codes the same pictures with its
 * command line at the same settings, decodes them with it, and prints sizes, and BD-rates between the
 * codecs, of both. Encoders of other versions code a little otherwise, SVT-AV1 much.
 *
 *   npx tsx scripts/check-rates.ts results/<name>/<run>/samples/compression
 */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openFrames } from "../src/data/frames.ts";
import { writeY4m } from "../src/data/video.ts";
import { bjontegaard, type RatePoint } from "../src/eval/compression/bjontegaard.ts";
import { fromMosaic, mosaicGrid } from "../src/eval/compression/mosaic.ts";
import { payloadOf, toolFlags } from "../src/eval/compression/tool.ts";
import { codecInput, type RateDistortion } from "../src/eval/compression-suite.ts";
import { frameErrors, psnrPerFrame } from "../src/eval/psnr.ts";

const dir = process.argv[2];
if (dir === undefined) {
  throw new Error("name the folder that holds rate-distortion.json");
}
const record = JSON.parse(
  readFileSync(join(dir, "rate-distortion.json"), "utf8"),
) as RateDistortion;
const { frames, height, width } = record;
const ffmpeg = (...args: string[]): Buffer =>
  execFileSync("ffmpeg", ["-y", "-v", "error", ...args], {
    maxBuffer: 2 ** 31 - 1,
    env: { ...process.env, SVT_LOG: "1" },
  });

/** RGB pictures of a file by the tool's own decoder and scaler, out of their mosaic. */
const clipFrames = Number(process.argv[3] ?? 17);
const { rows, columns } = mosaicGrid(height, width);
const pictures = (file: string): Uint8Array => {
  const flags = "bicubic+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp";
  const scaler = `scale=in_color_matrix=bt601:flags=${flags}`;
  const raw = ffmpeg("-i", file, "-vf", scaler, "-pix_fmt", "rgb24", "-f", "rawvideo", "-");
  return fromMosaic(raw, { frames, height, width }, clipFrames);
};
console.log(`${frames} frames of ${height}x${width}, ${rows}x${columns} clips in a picture`);
console.log(execFileSync("ffmpeg", ["-version"], { encoding: "utf8" }).split("\n")[0]);

const work = mkdtempSync(join(tmpdir(), "tessera-rates-"));
const input = join(work, "input.y4m");
const shape = {
  frames: Math.ceil(frames / clipFrames / (rows * columns)) * clipFrames,
  height: rows * height,
  width: columns * width,
};
const source = await openFrames(join(dir, codecInput), shape);
const mosaic = source.spans(shape.frames).next().value!;
source.close();
await writeY4m(input, { data: mosaic, ...shape }, record.fps);
const originals = fromMosaic(mosaic, { frames, height, width }, clipFrames);
const curves: { [codec: string]: { ours: RatePoint[]; tool: RatePoint[] } } = {};
try {
  for (const [codec, flags] of Object.entries(toolFlags)) {
    const points = record.points.filter(({ series }) => series === codec);
    if (points.length === 0) {
      continue;
    }
    const curve = { ours: [] as RatePoint[], tool: [] as RatePoint[] };
    curves[codec] = curve;
    for (const { setting, bytes, bpp, psnr } of points) {
      const file = join(work, `${codec}-${setting}.${flags.extension}`);
      ffmpeg("-i", input, ...flags.options, "-crf", String(setting), "-threads", "1", file);
      const size = payloadOf(readFileSync(file), flags.extension);
      const quality = psnrPerFrame(frameErrors(originals, pictures(file), frames));
      curve.ours.push({ rate: bpp, quality: psnr });
      curve.tool.push({ rate: (size * 8) / (frames * height * width), quality });
      const change = (100 * (bytes / size - 1)).toFixed(2);
      console.log(`${codec} ${setting}: ${bytes} bytes, the tool's ${size} (${change} %)`);
    }
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}

/** Strictly rising, best first out. */
const sorted = (points: RatePoint[]): RatePoint[] =>
  points
    .sort((a, b) => a.rate - b.rate)
    .filter((point, i, all) => all.slice(0, i).every((other) => other.quality < point.quality));
const [anchor, ...others] = Object.keys(curves);
for (const codec of others) {
  const of = (side: "ours" | "tool"): string =>
    bjontegaard(sorted(curves[anchor!]![side]), sorted(curves[codec]![side]), "pchip").ratePercent.toFixed(2); // biome-ignore format: one number
  console.log(
    `BD-rate of ${codec} against ${anchor}: ${of("ours")} %, of the tool's files ${of("tool")} %`,
  );
}
