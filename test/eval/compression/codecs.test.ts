import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { writeY4m } from "../../../src/data/video.ts";
import {
  type CodecName,
  codeClip,
  codecNames,
  codecs,
  findCodecs,
} from "../../../src/eval/compression/codecs.ts";
import { bjontegaard, type RatePoint } from "../../../src/eval/compression/bjontegaard.ts";
import { payloadOf, toolFlags } from "../../../src/eval/compression/tool.ts";
import { frameErrors, psnrPooled } from "../../../src/eval/psnr.ts";

const problems = await findCodecs();

describe.each(codecNames)("%s", (name: CodecName) => {
  const problem = problems.get(name);
  if (problem !== undefined) {
    console.warn(`skipped: ${name}: ${problem}`);
  }
  it.skipIf(problem !== undefined)("gives every frame back, better for more bytes", async () => {
    const clip = gradient(9, 47, 66);
    const [good, small] = [codecs[name].qualities[0]!, codecs[name].qualities.at(-1)!];
    const fine = await codeClip(name, clip, 24, good);
    const coarse = await codeClip(name, clip, 24, small);
    const quality = (decoded: Uint8Array) => psnrPooled(frameErrors(clip.data, decoded, 9));
    expect(fine.bytes).toBeGreaterThan(coarse.bytes);
    expect(quality(fine.decoded)).toBeGreaterThan(quality(coarse.decoded) + 3);
    expect(quality(fine.decoded)).toBeGreaterThan(30);
    expect(coarse.bytes).toBeGreaterThan(20);
  });
});

const ffmpeg = spawnSync("ffmpeg", ["-hide_banner", "-encoders"], { encoding: "utf8" });
const noTool = ffmpeg.status === 0 ? undefined : "the program ffmpeg is not found";
if (noTool !== undefined) {
  console.warn(`skipped: sizes beside the ffmpeg tool: ${noTool}`);
}

/**
 * How far another version of an encoder may be: x265 has been found equal but for a start code's byte,
 * SVT-AV1 changes much from version to version.
 */
const limits = { x264: 0.05, x265: 0.03, "svt-av1": 0.25, vp9: 0.06 } as const;

describe.each(["x264", "x265", "svt-av1", "vp9"] as const)("%s beside the ffmpeg tool", (name) => {
  it.skipIf(noTool !== undefined || problems.get(name) !== undefined)(
    "has its sizes and its curve, up to what another version of the encoder changes",
    async () => {
      const dir = mkdtempSync(join(tmpdir(), "tessera-ffmpeg-"));
      try {
        const clip = gradient(17, 96, 128); // older SVT-AV1 takes nothing below 64
        const input = join(dir, "clip.y4m");
        await writeY4m(input, clip, 24);
        const { options, extension } = toolFlags[name]!;
        const curves = { ours: [] as RatePoint[], tool: [] as RatePoint[] };
        const quality = (decoded: Uint8Array) => psnrPooled(frameErrors(clip.data, decoded, 17));
        for (const setting of [22, 27, 32, 37]) {
          const output = join(dir, `${setting}.${extension}`);
          const args = [
            "-v",
            "error",
            "-i",
            input,
            ...options,
            "-crf",
            `${setting}`,
            "-threads",
            "1",
          ];
          const made = spawnSync("ffmpeg", [...args, output], { encoding: "utf8" });
          expect([made.status, made.status === 0 ? "" : made.stderr]).toEqual([0, ""]);
          const shown = spawnSync(
            "ffmpeg",
            ["-v", "error", "-i", output, "-vf", scaler, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], // biome-ignore format: a command
            { maxBuffer: 2 ** 26 },
          );
          const bytes = payloadOf(readFileSync(output), extension);
          const ours = await codeClip(name, clip, 24, setting);
          expect(Math.abs(ours.bytes / bytes - 1)).toBeLessThan(limits[name]);
          curves.ours.push({ rate: ours.bytes, quality: quality(ours.decoded) });
          curves.tool.push({ rate: bytes, quality: quality(shown.stdout) });
        }
        // The whole curve: rate at equal quality, by the tool's own pictures.
        const { ratePercent, overlap } = bjontegaard(curves.tool, curves.ours, "pchip");
        expect(Math.abs(ratePercent)).toBeLessThan(100 * limits[name]);
        expect(overlap).toBeGreaterThan(0.8);
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    },
  );
});

const scaler =
  "scale=in_color_matrix=bt601:flags=bicubic+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp";

/** A drifting pattern with edges and gradients. */
function gradient(frames: number, height: number, width: number) {
  const data = new Uint8Array(frames * height * width * 3);
  for (let t = 0, i = 0; t < frames; t++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const square = Math.abs(x - 20 - 2 * t) < 8 && Math.abs(y - 24) < 9;
        data[i++] = square ? 220 : 2 * x;
        data[i++] = square ? 40 : 3 * y;
        data[i++] = square ? 60 : 128 + Math.round(60 * Math.sin((x + y + t) / 6));
      }
    }
  }
  return { data, frames, height, width };
}
