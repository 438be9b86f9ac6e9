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

/** Flags of the tool for what `codecs` sets, the encoder's own text taken out of the stream. */
const flags = {
  x264: ["-c:v", "libx264", "-preset", "medium", "-bsf:v", "filter_units=remove_types=6", "-f", "h264"], // biome-ignore format: a command
  x265: ["-c:v", "libx265", "-preset", "medium", "-x265-params", "info=0:pools=none:frame-threads=1:log-level=none", "-bsf:v", "filter_units=remove_types=39-40", "-f", "hevc"], // biome-ignore format: a command
  "svt-av1": ["-c:v", "libsvtav1", "-preset", "8", "-svtav1-params", "lp=1", "-f", "ivf"], // biome-ignore format: a command
  vp9: ["-c:v", "libvpx-vp9", "-deadline", "good", "-cpu-used", "2", "-b:v", "0", "-f", "ivf"],
} as const;

/** Bytes of a file's frames: IVF has 32 in front and 12 before each. */
function payloadOf(file: string, format: string): number {
  const bytes = readFileSync(file);
  if (format !== "ivf") {
    return bytes.length;
  }
  let sum = 0;
  for (let at = 32; at < bytes.length; ) {
    const length = bytes.readUInt32LE(at);
    sum += length;
    at += 12 + length;
  }
  return sum;
}

describe.each(["x264", "x265", "svt-av1", "vp9"] as const)("%s beside the ffmpeg tool", (name) => {
  it.skipIf(noTool !== undefined || problems.get(name) !== undefined)(
    "has its size, up to what another version of the encoder changes",
    async () => {
      const dir = mkdtempSync(join(tmpdir(), "tessera-ffmpeg-"));
      try {
        const clip = gradient(17, 96, 128); // older SVT-AV1 takes nothing below 64
        const input = join(dir, "clip.y4m");
        await writeY4m(input, clip, 24);
        const output = join(dir, "clip.bin");
        const args = ["-v", "error", "-i", input, ...flags[name], "-crf", "27", "-threads", "1"];
        const made = spawnSync("ffmpeg", [...args, output], { encoding: "utf8" });
        expect([made.status, made.status === 0 ? "" : made.stderr]).toEqual([0, ""]);
        const theirs = payloadOf(output, flags[name].at(-1)!);
        const ours = await codeClip(name, clip, 24, 27);
        // SVT-AV1 changes much from version to version.
        const limit = name === "svt-av1" ? 0.25 : 0.1;
        expect(Math.abs(ours.bytes / theirs - 1)).toBeLessThan(limit);
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    },
  );
});

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
