/** @file The suites on a tokenizer whose results can be told by hand, and on broken ones. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, it } from "vitest";
import { chooseClips, ClipStream, toBytes, toFloats } from "../../src/eval/clips.ts";
import { protocols } from "../../src/eval/protocols.ts";
import { buildSuite, type SuiteConfig } from "../../src/eval/registry.ts";
import { protocolHash, type EvalContext, type Score } from "../../src/eval/suite.ts";
import { Scope } from "../../src/models/scope.ts";
import { buildObjective } from "../../src/objectives/registry.ts";
import { blockTokenizer, context, shapes } from "./fakes.ts";

const common = { split: "validation", clips: 24, seed: 0 } as const;
const reconstruction = {
  type: "reconstruction",
  ...common,
  rounding: "uint8",
  ssim: ["gaussian-valid", "skimage7"],
  ms_ssim: [],
  lpips: [],
  pictures: 2,
} satisfies SuiteConfig;

async function scores(config: SuiteConfig, name: string, ctx: EvalContext): Promise<Score[]> {
  return buildSuite(config, name).run(ctx);
}

function value(list: readonly Score[], name: string): number {
  const found = list.find((score) => score.name === name);
  expect(found, `score ${name}`).toBeDefined();
  return found!.value;
}

describe("clips for evaluation", () => {
  it("are the same for every run, distinct, and not simply the first", () => {
    const chosen = chooseClips(1000, 50, 0);
    expect(chooseClips(1000, 50, 0)).toEqual(chosen);
    expect(new Set(chosen).size).toBe(50);
    expect(Math.max(...chosen)).toBeGreaterThan(500);
    expect(chooseClips(7, 50, 0).length).toBe(7);
  });

  it("come in batches of one shape, and their digest does not depend on the batch size", async () => {
    const dataset = await shapes("validation");
    const digests = [];
    for (const batch of [4, 10]) {
      const stream = new ClipStream(dataset, chooseClips(dataset.size, 14, 0), batch);
      const sizes: number[] = [];
      for await (const { clips, size } of stream) {
        expect(clips.shape).toEqual([batch, 5, 16, 16, 3]);
        sizes.push(size);
      }
      expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(14);
      digests.push(stream.digest());
    }
    expect(digests[0]).toBe(digests[1]);
  });

  it("turn decoded values into pixels by the named rounding", () => {
    const decoded = Float32Array.of(-3, -1, 0, 1, 2);
    expect([...toBytes(decoded)]).toEqual([0, 0, 128, 255, 255]);
    expect([...toFloats(decoded)]).toEqual([0, 0, 127.5, 255, 255]);
    expect(() => toBytes(Float32Array.of(Number.NaN))).toThrow(/not finite/);
  });
});

describe("every suite", () => {
  const configs: SuiteConfig[] = [
    reconstruction,
    { type: "codebook", ...common },
    { type: "rate", ...common, alphabet: "joint" },
    { type: "probe", seed: 0, features: "codes", cells: 2, train_clips: 120, clips: 48 },
  ];

  it.each(configs)(
    "$type: documented protocols, right hashes, equal on each run",
    async (config) => {
      const ctx = await context();
      const first = await scores(config, config.type, ctx);
      expect(new Set(first.map((score) => score.name)).size).toBe(first.length);
      for (const score of first) {
        expect(Object.keys(protocols)).toContain(score.protocol.name);
        expect(score.protocolHash).toBe(protocolHash(score.protocol));
        expect(Number.isFinite(score.value)).toBe(true);
        expect(score.name.startsWith(`${config.type}/`)).toBe(true);
      }
      // Another run seed and another batch size change nothing.
      expect(await scores(config, config.type, { ...ctx, seed: 2, batch: 7 })).toEqual(first);
    },
  );

  it.each(configs)(
    "$type: of clips that never change, the scores that follow by hand",
    async (config) => {
      const grey = async (split: "train" | "validation") => {
        const real = await shapes(split);
        const get = async (index: number, visit: number) => {
          const sample = await real.get(index, visit);
          return { ...sample, clip: new Uint8Array(sample.clip.length).fill(90) };
        };
        return { ...real, get };
      };
      const found = await scores(config, config.type, await context({ dataset: grey }));
      expect(found.every((score) => Number.isFinite(score.value))).toBe(true);
      // Grey 90 becomes step 2 of 7, which is 73 of 255: 17 levels off in every pixel.
      const wanted = {
        reconstruction: {
          psnr: 10 * Math.log10(255 ** 2 / 17 ** 2),
          flicker: 0,
          psnr_mean_frame: 100,
        },
        codebook: { perplexity: 1, dead_codes: 511, entropy: 0 },
        rate: { nominal_bits_per_token: 9, empirical_bits_per_token: 0 },
        probe: { chance: 100 / 12 },
      }[config.type as "reconstruction" | "codebook" | "rate" | "probe"];
      for (const [quantity, expected] of Object.entries(wanted)) {
        expect(value(found, `${config.type}/${quantity}`)).toBeCloseTo(expected, 2);
      }
    },
  );

  it("names its scores as it is told", async () => {
    const [score] = await scores({ type: "codebook", ...common }, "mine", await context());
    expect(score!.name).toBe("mine/factor_perplexity");
  });

  it("refuses clips that the tokenizer was not built for", async () => {
    const ctx = await context({ tokenizer: blockTokenizer(5, 32, 8) });
    await expect(
      scores({ type: "rate", ...common, alphabet: "joint" }, "rate", ctx),
    ).rejects.toThrow(/takes clips of 5 x 32 x 32.*gives 5 x 16 x 16/);
  });
});

describe("reconstruction", () => {
  let ctx: EvalContext;
  beforeAll(async () => {
    ctx = await context();
  });

  it("measures better quantization as better, and saves pictures", async () => {
    const fine = await scores(reconstruction, "fine", {
      ...ctx,
      tokenizer: blockTokenizer(5, 16, 64),
    });
    const coarse = await scores(reconstruction, "coarse", {
      ...ctx,
      tokenizer: blockTokenizer(5, 16, 3),
    });
    expect(value(fine, "fine/psnr")).toBeGreaterThan(value(coarse, "coarse/psnr"));
    expect(value(fine, "fine/ssim")).toBeGreaterThan(value(coarse, "coarse/ssim"));
    expect(value(fine, "fine/psnr_gain")).toBeCloseTo(
      value(fine, "fine/psnr") - value(fine, "fine/psnr_mean_frame"),
      9,
    );
    expect(fine[0]!.protocolHash).toBe(coarse[0]!.protocolHash);
    for (const file of ["fine-best.png", "fine-worst.png"]) {
      const png = readFileSync(join(ctx.samplesDir(), file));
      expect(png.subarray(1, 4).toString()).toBe("PNG");
    }
  });

  it("gives a perfect tokenizer the cap and SSIM 1", async () => {
    const exact = blockTokenizer(5, 16, 8);
    const tokenizer = {
      ...exact,
      encode: (clips: tf.Tensor5D) => ({ ...exact.encode(clips), codes: clips }),
      decode: (codes: tf.Tensor5D) => codes,
    };
    const list = await scores({ ...reconstruction, pictures: 0 }, "r", { ...ctx, tokenizer });
    expect(value(list, "r/psnr")).toBe(100);
    expect(value(list, "r/ssim")).toBeCloseTo(1, 9);
  });

  it("leaves the mean frame out for images", async () => {
    const list = await scores({ ...reconstruction, clips: 4 }, "r", {
      ...ctx,
      dataset: (split) => shapes(split, { frames: 1 }),
      tokenizer: blockTokenizer(1, 16, 8),
    });
    expect(list.map((score) => score.name)).not.toContain("r/psnr_mean_frame");
  });

  it("says so when the tokenizer decodes NaN or frames are too small for a window", async () => {
    const exact = blockTokenizer(5, 16, 8);
    const tokenizer = {
      ...exact,
      decode: (codes: tf.Tensor5D) => tf.mul(exact.decode(codes), Number.NaN) as tf.Tensor5D,
    };
    await expect(scores(reconstruction, "r", { ...ctx, tokenizer })).rejects.toThrow(/not finite/);
    const small = {
      ...ctx,
      dataset: (split: "train" | "validation") => shapes(split, { height: 8, width: 8 }),
      tokenizer: blockTokenizer(5, 8, 8),
    };
    await expect(scores(reconstruction, "r", small)).rejects.toThrow(/at least 11 x 11/);
    const multi = { ...reconstruction, ms_ssim: ["pytorch" as const] };
    await expect(scores(multi, "r", ctx)).rejects.toThrow(/at least 161/);
  });
});

describe("codebook and rate", () => {
  it("order their code lengths as theory does, and bound usage by the tokens", async () => {
    const ctx = await context();
    const rate = await scores({ type: "rate", ...common, alphabet: "factors" }, "rate", ctx);
    expect(value(rate, "rate/nominal_bits_per_token")).toBeCloseTo(9, 12);
    expect(value(rate, "rate/nominal_bpp")).toBeCloseTo(9 / 16, 12);
    expect(value(rate, "rate/empirical_bpp")).toBeLessThan(value(rate, "rate/adaptive_bpp"));
    expect(value(rate, "rate/adaptive_bpp")).toBeLessThan(value(rate, "rate/nominal_bpp"));
    expect(value(rate, "rate/adaptive_order1_bpp")).toBeLessThan(value(rate, "rate/adaptive_bpp"));
    const book = await scores({ type: "codebook", ...common }, "codebook", ctx);
    const joint = value(book, "codebook/entropy");
    expect(joint).toBeLessThanOrEqual(value(book, "codebook/factor_entropy_sum"));
    expect(value(book, "codebook/perplexity")).toBeCloseTo(2 ** joint, 6);
    expect(value(book, "codebook/usage")).toBeCloseTo(
      100 * (1 - value(book, "codebook/dead_codes") / 512),
      9,
    );
  });
});

describe("rate under a causal transformer", () => {
  const space = { grid: [5, 4, 4], factors: [8, 8, 8], classes: 12 } as const;
  const model = {
    type: "transformer",
    width: 8,
    depth: 1,
    heads: 2,
    mlp_ratio: 2,
    positions: "learned",
    tie_weights: true,
  } as const;
  const objectiveConfig = {
    type: "causal",
    label_dropout: 0.1,
    label_smoothing: 0,
    sampling: {
      cache: true,
      temperature: 1,
      top_k: 0,
      top_p: 1,
      guidance: 1,
      guidance_schedule: "constant",
      guidance_power: 4,
    },
  } as const;

  it("adds what the transformer says to log2 12 for the label", async () => {
    const ctx = await context();
    const objective = buildObjective(objectiveConfig, model, space, Scope.root(3));
    const uniform = {
      ...objective,
      logProbs: ({ ids }: { [name: string]: tf.Tensor }) =>
        tf.fill([ids!.shape[0]!, 80], -Math.log(512)) as tf.Tensor2D,
    };
    const config = { type: "rate", ...common, clips: 8, alphabet: "factors" } satisfies SuiteConfig;
    const known = await scores(config, "rate", { ...ctx, objective: uniform });
    expect(value(known, "rate/causal_prior_bits_per_token")).toBeCloseTo(9 + Math.log2(12) / 80, 4);
    const list = await scores(config, "rate", { ...ctx, objective });
    const bits = value(list, "rate/causal_prior_bits_per_token");
    // The batch size, and so the filling of the last batch, changes nothing.
    const other = await scores(config, "rate", { ...ctx, objective, batch: 3 });
    expect(value(other, "rate/causal_prior_bits_per_token")).toBeCloseTo(bits, 4);
  });
});

describe("probe", () => {
  it("reads motion off simple codes, and nothing off one fixed code", async () => {
    const ctx = await context({
      dataset: (split) => shapes(split, { size: 480, validation_size: 120 }),
    });
    const config = {
      type: "probe",
      seed: 0,
      features: "codes",
      cells: 4,
      train_clips: 480,
      clips: 120,
    } satisfies SuiteConfig;
    const list = await scores(config, "probe", ctx);
    expect(value(list, "probe/chance")).toBeCloseTo(100 / 12, 9);
    expect(value(list, "probe/top1_over_chance")).toBeGreaterThan(2);
    const blind = blockTokenizer(5, 16, 8);
    const tokenizer = {
      ...blind,
      encode(clips: tf.Tensor5D) {
        const { ids, codes } = blind.encode(clips);
        return { ids: tf.zerosLike(ids), codes: tf.zerosLike(codes) };
      },
    };
    const nothing = await scores(config, "probe", { ...ctx, tokenizer });
    expect(value(nothing, "probe/top1_over_chance")).toBeLessThan(1.5);
  });

  it("works on histograms of ids, and bounds their number", async () => {
    const ctx = await context();
    const config = {
      type: "probe",
      seed: 0,
      features: "ids",
      cells: 1,
      train_clips: 60,
      clips: 24,
    } satisfies SuiteConfig;
    const [top1] = await scores(config, "probe", ctx);
    expect(top1!.protocol.name).toBe("probe:linear-ids");
    const huge = { ...ctx, tokenizer: { ...blockTokenizer(5, 16, 8), factors: [65536] } };
    await expect(scores(config, "probe", huge)).rejects.toThrow(/more than 8192/);
  });

  it("gives no score without classes to tell apart, and says so", async () => {
    const ctx = await context({ dataset: (split) => shapes(split, { motions: ["left"] }) });
    const config = {
      type: "probe",
      seed: 0,
      features: "codes",
      cells: 1,
      train_clips: 60,
      clips: 24,
    } satisfies SuiteConfig;
    const warnings: string[] = [];
    const heard = { ...ctx, warn: (message: string) => void warnings.push(message) };
    expect(await scores(config, "probe", heard)).toEqual([]);
    expect(warnings.join()).toMatch(/nothing to tell apart.*has 1 class$/);
  });
});
