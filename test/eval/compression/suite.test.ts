import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { setWarningSink } from "../../../src/data/warnings.ts";
import { readBitstream, writeBitstream } from "../../../src/eval/compression/bitstream.ts";
import { TokenCodec } from "../../../src/eval/compression/codec.ts";
import { curveOf, type RateDistortion } from "../../../src/eval/compression-suite.ts";
import { buildSuite, type SuiteConfig } from "../../../src/eval/registry.ts";
import { Scope } from "../../../src/models/scope.ts";
import { buildTransformer } from "../../../src/models/transformer.ts";
import { buildMaskedPrior } from "../../../src/objectives/prior.ts";
import type { Device } from "../../../src/runtime/device.ts";
import { openDevice } from "../../../src/runtime/registry.ts";
import { tinyModel } from "../../objectives/support.ts";
import { mclJcv } from "../../data/look-alikes.ts";
import { blockTokenizer, context, fakeObjective } from "../fakes.ts";

const config = {
  type: "compression",
  split: "validation",
  clips: 3,
  seed: 0,
  codecs: ["x264"],
} satisfies SuiteConfig;

describe("suite compression", () => {
  it("reports the sizes of files that decode, and the codec's curve", async () => {
    const warnings: string[] = [];
    const device = await openDevice({ type: "cpu" });
    const base = { ...(await context({ warn: (message) => warnings.push(message) })), device };
    device.activate();
    const space = { grid: base.tokenizer.grid, factors: base.tokenizer.factors, classes: 0 };
    const transformer = buildTransformer(tinyModel, space, { mask: true }, Scope.root(3));
    const objective = {
      ...fakeObjective(base.tokenizer, () => Promise.reject(new Error("not used"))),
      scope: transformer.scope,
      prior: (device: Device) => buildMaskedPrior(device, transformer),
    };
    const scores = await buildSuite(config, "compression").run({ ...base, objective });
    const value = (name: string) => scores.find((s) => s.name === `compression/${name}`)!.value;
    // Blocks of 4x4 pixels in 8^3 colours: 9 bits for 16 pixels, and some header.
    const pixels = 3 * 5 * 16 * 16;
    expect(value("uniform_bpp") * pixels).toBeGreaterThan((9 / 16) * pixels);
    expect(value("uniform_bpp") * pixels).toBeLessThan((9 / 16) * pixels + 45 * 8);
    expect(value("adaptive_bpp")).toBeLessThan(value("uniform_bpp"));
    expect(value("prior_bpp")).toBeLessThan(value("uniform_bpp"));
    const file = join(base.samplesDir(), "rate-distortion.json");
    const record = JSON.parse(readFileSync(file, "utf8")) as RateDistortion;
    expect(record.points.filter(({ series }) => series === "x264").length).toBeGreaterThan(5);
    const curve = curveOf(record.points, "x264");
    expect(curve.every((p, i) => i === 0 || p.quality > curve[i - 1]!.quality)).toBe(true);
    // What is compared is a file of ours, though the codec's smallest is smaller.
    for (const { name, protocol } of scores.filter((one) => one.name.includes("against"))) {
      expect([name, protocol["ours"]]).toEqual([name, expect.stringMatching(/^tokens: /)]);
    }
    // Either a comparison or the reason why there is none.
    const compared = scores.filter(({ name }) => name.endsWith("against_x264")).length;
    expect(compared + 2 * warnings.length).toBeGreaterThanOrEqual(2);
  });
});

describe("sequences", () => {
  it("are whole videos of a named set, at one size, their rates and qualities means", async () => {
    const path = mkdtempSync(join(tmpdir(), "tessera-sequences-"));
    mclJcv(path);
    const warnings: string[] = [];
    const previous = setWarningSink((message) => warnings.push(message));
    try {
      const base = await context({ warn: (message) => warnings.push(message) });
      const sequences = { protocol: "mcl-jcv-640x360", path, frames: 1 } as const;
      const scores = await buildSuite({ ...config, sequences }, "mcl").run(base);
      expect(warnings.some((text) => /videoSRC03/.test(text))).toBe(true); // cut off
      const bpp = scores.find(({ name }) => name === "mcl/uniform_bpp")!;
      expect(bpp.n).toBe(2);
      expect(bpp.protocol).toMatchObject({ sequences: "mcl-jcv-640x360", first_frames: 1 });
      // 40 x 23 tiles of one span of 5 frames in 16 x 16 pixels, 9 bits each 4 x 4 of them.
      const bits = 40 * 23 * 5 * 16 * 9;
      expect(bpp.value * 360 * 640).toBeGreaterThan(bits);
      expect(bpp.value * 360 * 640).toBeLessThan(bits + 45 * 8);
      const record = JSON.parse(readFileSync(join(base.samplesDir(), "rate-distortion.json"), "utf8")) as RateDistortion; // biome-ignore format: one call
      expect(record).toMatchObject({ sequences: "mcl-jcv-640x360", frames: 2, height: 360, width: 640 }); // biome-ignore format: one call
      const none = { ...sequences, path: join(path, "nothing") };
      await expect(buildSuite({ ...config, sequences: none }, "mcl").run(base)).rejects.toThrow(/does not exist/); // biome-ignore format: one call
    } finally {
      setWarningSink(previous);
      rmSync(path, { recursive: true });
    }
  });
});

describe("codec", () => {
  it("codes a video of an odd size, and refuses files of other networks", async () => {
    const { device } = await context();
    const make = (levels: number) =>
      new TokenCodec({ device, tokenizer: blockTokenizer(5, 16, levels), batch: 4 });
    const codec = make(8);
    const [height, width, frames] = [19, 33, 12];
    const data = Uint8Array.from({ length: frames * height * width * 3 }, (_, i) => (i * 7) % 256);
    const size = 5 * height * width * 3;
    const spans = [data.subarray(0, size), data.subarray(size, 2 * size), data.subarray(2 * size)];
    const video = await codec.tokenize(spans, { height, width, fps: 12.5 });
    expect(video.frames).toBe(frames);
    expect(video.ids.length).toBe(3 * 2 * 3 * (5 * 4 * 4) * 3); // spans, rows, columns, tokens, factors
    for (const code of codec.codes) {
      const bytes = writeBitstream(await codec.pack(video, code));
      const back = await codec.unpack(readBitstream(bytes, "file"));
      expect(back).toEqual(video);
      await expect(make(4).unpack(readBitstream(bytes, "file"))).rejects.toThrow(/tokenizer/);
    }
    let decoded = 0;
    for await (const span of codec.frames(video)) {
      decoded += span.length;
    }
    expect(decoded).toBe(data.length);
    await expect(codec.pack(video, "prior")).rejects.toThrow(/needs a trained transformer/);
  });
});
