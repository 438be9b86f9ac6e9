import { describe, expect, it } from "vitest";
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
