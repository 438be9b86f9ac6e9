/** @file What the two tokenizers promise: shapes, causality, round trips, gradients, honest sizes. */

import { readdirSync, readFileSync } from "node:fs";
import * as tf from "@tensorflow/tfjs-core";
import { Ajv } from "ajv";
import { beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { UserError } from "../../src/config/errors.ts";
import { countParameters, published } from "../../scripts/parameters.ts";
import { Scope } from "../../src/models/scope.ts";
import {
  buildTokenizer,
  checkTokenizer,
  type TokenizerConfig,
  tokenizerSchema,
} from "../../src/tokenizers/registry.ts";
import { bitsPerToken } from "../../src/tokenizers/tokenizer.ts";
import {
  clips,
  worstError,
  magvit2Config,
  magvitConfig,
  useReference,
  vqConfig,
} from "./helpers.ts";

beforeAll(useReference);
const video = { frames: 5, height: 8, width: 12 };
const step = () => tf.scalar(0);

describe("magvit2", () => {
  const build = (changes: Partial<typeof magvit2Config> = {}, clip = video) =>
    buildTokenizer({ ...magvit2Config, ...changes }, clip, Scope.root(1));

  it("gives a grid of 1 + t latents, ids within their factors, and clips of the built shape", () => {
    const tokenizer = build();
    expect(tokenizer.grid).toEqual([3, 2, 3]);
    expect(tokenizer.factors).toEqual([16, 4]);
    expect(bitsPerToken(tokenizer)).toBe(6);
    const { ids, codes } = tokenizer.encode(clips([2, 5, 8, 12, 3]));
    expect(ids.shape).toEqual([2, 3, 2, 3, 2]);
    expect(ids.dtype).toBe("int32");
    expect(tokenizer.lookup(ids).dataSync()).toEqual(codes.dataSync());
    expect(tokenizer.decode(codes).shape).toEqual([2, 5, 8, 12, 3]);
  });

  it("never lets a token see a later frame", () => {
    const tokenizer = build();
    const x = clips([1, 5, 8, 12, 3]);
    const before = tokenizer.encode(x).ids.arraySync();
    for (let frame = 1; frame < 5; frame++) {
      const change = tf.concat(
        [tf.zeros([1, frame, 8, 12, 3]), tf.ones([1, 5 - frame, 8, 12, 3])],
        1,
      ) as tf.Tensor5D;
      const after = tokenizer.encode(tf.sub(tf.mul(x, tf.sub(1, change)), change)).ids.arraySync();
      // Latent i sees frames up to 2i: those with 2i < frame must be equal to the bit.
      const kept = Math.ceil(frame / 2);
      expect(after[0]!.slice(0, kept)).toEqual(before[0]!.slice(0, kept));
      expect(after[0]!.slice(kept)).not.toEqual(before[0]!.slice(kept));
    }
  });

  it("never lets a decoded frame see a later latent", () => {
    const tokenizer = build();
    const { codes } = tokenizer.encode(clips([1, 5, 8, 12, 3]));
    const late = tf.concat([tf.ones([1, 2, 2, 3, 6]), tf.mul(tf.ones([1, 1, 2, 3, 6]), -1)], 1);
    const a = tf.slice(tokenizer.decode(codes), 0, [1, 3, 8, 12, 3]);
    const b = tf.slice(tokenizer.decode(tf.mul(codes, late)), 0, [1, 3, 8, 12, 3]);
    expect(b.dataSync()).toEqual(a.dataSync());
  });

  it("gives an image the tokens of a clip's first latent", () => {
    const image = build({}, { ...video, frames: 1 });
    expect(image.grid).toEqual([1, 2, 3]);
    const x = clips([2, 5, 8, 12, 3]);
    const first = tf.slice(x, 0, [2, 1, 8, 12, 3]);
    const expected = tf.slice(build().encode(x).ids, 0, [2, 1, 2, 3, 2]);
    expect(image.encode(first).ids.dataSync()).toEqual(expected.dataSync());
    expect(image.decode(image.encode(first).codes).shape).toEqual([2, 1, 8, 12, 3]);
  });

  it("keeps all this with patches of several frames", () => {
    const patched = { patch_size: 4, temporal_patch_size: 2, output_norm: false };
    const flat = { channel_multipliers: [2], temporal_strides: [], spatial_strides: [] };
    const tokenizer = build({ ...patched, ...flat });
    expect(tokenizer.grid).toEqual([3, 2, 3]);
    const x = clips([1, 5, 8, 12, 3]);
    const { ids, codes } = tokenizer.encode(x);
    const late = tf.concat([tf.zeros([1, 3, 8, 12, 3]), tf.ones([1, 2, 8, 12, 3])], 1);
    const changed = tokenizer.encode(tf.add(x, late)).ids;
    const early = (all: tf.Tensor5D) => tf.slice(all, 0, [1, 2, 2, 3, 2]).dataSync();
    expect(early(changed)).toEqual(early(ids));
    expect(changed.dataSync()).not.toEqual(ids.dataSync());
    expect(tokenizer.decode(codes).shape).toEqual([1, 5, 8, 12, 3]);
    const image = build({ ...patched, ...flat }, { ...video, frames: 1 });
    const first = image.encode(tf.slice(x, 0, [1, 1, 8, 12, 3])).ids.dataSync();
    expect(first).toEqual(tf.slice(ids, 0, [1, 1, 2, 3, 2]).dataSync());
  });

  it("steers the decoder by the codes only when adaptive_norm is on", () => {
    const names = (on: boolean) => [...build({ adaptive_norm: on }).scope.variables().keys()];
    expect(names(true).some((name) => name.includes("adaptive"))).toBe(true);
    expect(names(false).some((name) => name.includes("adaptive"))).toBe(false);
  });

  it("works with a codebook instead of signs, and with pre_norm", () => {
    const { quantizer } = magvit2Config;
    const normed = { ...quantizer, pre_norm: true } as typeof quantizer;
    for (const config of [vqConfig, normed]) {
      const { loss } = build({ quantizer: config }).loss(clips([1, 5, 8, 12, 3]), step(), true);
      expect(Number.isFinite(loss.dataSync()[0])).toBe(true);
    }
  });
});

describe("magvit", () => {
  it("encodes, looks up and decodes clips, and images with temporal strides of 1", () => {
    const clip = { ...video, frames: 4 };
    const tokenizer = buildTokenizer(magvitConfig, clip, Scope.root(1));
    expect(tokenizer.grid).toEqual([2, 2, 3]);
    const { ids, codes } = tokenizer.encode(clips([2, 4, 8, 12, 3]));
    expect(ids.shape).toEqual([2, 2, 2, 3, 1]);
    expect(tokenizer.lookup(ids).dataSync()).toEqual(codes.dataSync());
    expect(tokenizer.decode(codes).shape).toEqual([2, 4, 8, 12, 3]);
    const image = buildTokenizer(
      { ...magvitConfig, temporal_strides: [1] },
      { ...video, frames: 1 },
      Scope.root(1),
    );
    expect(image.encode(clips([2, 1, 8, 12, 3])).ids.shape).toEqual([2, 1, 2, 3, 1]);
  });
});

describe("the training loss", () => {
  it.each([magvit2Config, magvitConfig])("reaches every parameter of $type", (config) => {
    const clip = { ...video, frames: config.type === "magvit" ? 4 : 5 };
    const tokenizer = buildTokenizer(config, clip, Scope.root(1));
    const x = clips([1, clip.frames, 8, 12, 3]);
    const parameters = tokenizer.scope.trainable();
    const { grads } = tf.variableGrads(
      () => tokenizer.loss(x, step(), true).loss,
      [...parameters.values()],
    );
    const untouched: string[] = [];
    for (const [name, variable] of parameters) {
      const gradient = grads[variable.name];
      if (!gradient || tf.max(tf.abs(gradient)).dataSync()[0] === 0) {
        untouched.push(name);
      }
    }
    expect(untouched).toEqual([]);
  });

  it("is the reconstruction and quantizer parts with their weights", () => {
    const config = { ...magvit2Config, l1_weight: 2, l2_weight: 3 };
    const tokenizer = buildTokenizer(config, video, Scope.root(1));
    const x = clips([2, 5, 8, 12, 3]);
    const { loss, metrics, reconstruction } = tokenizer.loss(x, step(), true);
    const error = tf.div(tf.sub(reconstruction, x), 2);
    const l2 = tf.mean(tf.square(error)).dataSync()[0]!;
    const l1 = tf.mean(tf.abs(error)).dataSync()[0]!;
    const of = (name: string) => metrics[name]!.dataSync()[0]!;
    expect(of("reconstruction")).toBeCloseTo(l2, 6);
    expect(of("psnr")).toBeCloseTo(-10 * Math.log10(l2), 4);
    const penalty = 0.1 * (of("sample_entropy") - of("batch_entropy"));
    const expected = 2 * l1 + 3 * l2 + 0.25 * of("commitment") + penalty;
    expect(loss.dataSync()[0]).toBeCloseTo(expected, 5);
  });

  it("goes down on one batch", () => {
    const tokenizer = buildTokenizer({ ...magvit2Config, base_channels: 8 }, video, Scope.root(1));
    const x = clips([1, 5, 8, 12, 3]);
    const optimizer = tf.train.adam(1e-2);
    const run = () => {
      const value = optimizer.minimize(() => tokenizer.loss(x, step(), true).loss, true);
      return value!.dataSync()[0]!;
    };
    const first = run();
    let last = first;
    for (let i = 0; i < 15; i++) {
      last = run();
    }
    expect(last).toBeLessThan(0.8 * first);
  });
});

describe("checkTokenizer", () => {
  it("finds every mistake at once, with its key and what to do", () => {
    const config: TokenizerConfig = { ...magvit2Config, spatial_strides: [2, 2] };
    const problems = checkTokenizer(config, { frames: 6, height: 10, width: 16 });
    expect(problems.map(({ path }) => path)).toEqual([
      "spatial_strides",
      "temporal_strides",
      "spatial_strides",
    ]);
    expect(problems[1]).toEqual({
      path: "temporal_strides",
      message:
        "clips of 6 frames do not fit a temporal down-sampling of 2: expected 1 + 2·n frames",
      hint: "use 5 or 7 frames, or other temporal_strides",
    });
    expect(() => buildTokenizer(config, video, Scope.root(0))).toThrow(UserError);
  });

  it("finds codebook groups that do not divide the width", () => {
    const config = { ...magvit2Config, quantizer: { ...vqConfig, width: 4, groups: 3 } };
    expect(checkTokenizer(config, video).map(({ path }) => path)).toEqual(["quantizer.groups"]);
  });

  it("tells causal frame counts from others", () => {
    const frames = (config: TokenizerConfig, n: number) =>
      checkTokenizer(config, { ...video, frames: n }).length;
    expect([1, 2, 3, 4, 5].map((n) => frames(magvit2Config, n))).toEqual([0, 1, 0, 1, 0]);
    expect([1, 2, 3, 4, 5].map((n) => frames(magvitConfig, n))).toEqual([1, 0, 1, 0, 1]);
  });
});

describe("configs/tokenizers", () => {
  const folder = new URL("../../configs/tokenizers/", import.meta.url);
  const ajv = new Ajv({ strict: false, discriminator: true, useDefaults: true, allErrors: true });
  const validate = ajv.compile(tokenizerSchema);
  const load = (name: string): TokenizerConfig => {
    const read = (file: string): object => {
      const { extends: base, ...own } = parse(
        readFileSync(new URL(`${file}.yaml`, folder), "utf8"),
      ) as { extends?: string };
      return base === undefined ? own : { ...read(base.slice(1)), ...own };
    };
    const config: unknown = read(name);
    validate(config);
    expect(validate.errors).toBeNull();
    return config as TokenizerConfig;
  };
  const count = (name: string, clip: { frames: number; height: number; width: number }): number => {
    const config = load(name);
    expect(checkTokenizer(config, clip)).toEqual([]);
    const tokenizer = buildTokenizer(config, clip, Scope.blank(0));
    const parameters = tokenizer.scope.parameterCount();
    tokenizer.scope.dispose();
    return parameters / 1e6;
  };

  it("holds valid presets only", () => {
    const names = readdirSync(folder).filter((name) => name.endsWith(".yaml"));
    expect(names.length).toBeGreaterThanOrEqual(6);
    for (const name of names) {
      load(name.replace(/\.yaml$/, ""));
    }
  });

  it("has the published sizes of MAGVIT: 41 M and 158 M", () => {
    const clip = { frames: 16, height: 128, width: 128 };
    expect(worstError([count("magvit-b", clip)], [40.6])).toBeLessThan(0.1);
    expect(worstError([count("magvit-l", clip)], [157.8])).toBeLessThan(0.1);
  });

  it("comes near the published size of MAGVIT-v2 at base 64: 58 M", () => {
    const clip = { frames: 17, height: 128, width: 128 };
    expect(worstError([count("magvit2-b", clip)], [56.4])).toBeLessThan(0.2);
  });

  it("has the published size of MAGVIT's 2D baseline: 53 M", () => {
    const clip = { frames: 16, height: 128, width: 128 };
    expect(worstError([count("vqgan-2d", clip)], [53])).toBeLessThan(0.05 * 53);
  });

  const stated = published.filter(([, , millions]) => millions !== undefined);
  it.each(stated)(
    "%s: in %i frames within 5 %% of the published %f M",
    (name, frames, millions) => {
      const made = countParameters(name, frames) / 1e6;
      expect(Math.abs(made / millions! - 1)).toBeLessThan(0.05);
      expect(count(name, { frames, height: 128, width: 128 })).toBeCloseTo(made, 6);
    },
  );

  it("counts the others at paper scale, too", () => {
    const names = readdirSync(folder).map((name) => name.replace(/\.yaml$/, ""));
    const large = names.filter((name) => !/small|pixels|soundstream/.test(name));
    expect(published.map(([name]) => name).sort()).toEqual(large.sort());
  });

  it("has small ones that fit small clips", () => {
    expect(count("magvit-small", { frames: 16, height: 32, width: 32 })).toBeLessThan(2);
    expect(count("magvit2-small", { frames: 17, height: 32, width: 32 })).toBeLessThan(2);
  });
});
