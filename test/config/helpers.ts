/** @file A small world to configure: a root schema, folders of files, and a loader that hides both. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll } from "vitest";
import { type LoadOptions, loadConfig, type Resolved } from "../../src/config/resolve.ts";
import { closed, component, type Static, Type } from "../../src/config/schema.ts";

// The groups are named unlike the package's own, so that nothing in its configs/ shows here.

const magvit = closed(
  {
    type: Type.Literal("magvit"),
    codes: Type.Integer({ minimum: 2, default: 1024, description: "Codebook size." }),
  },
  { description: "3D-VQ." },
);

const magvit2 = closed(
  {
    type: Type.Literal("magvit2"),
    width: Type.Integer({ minimum: 1, description: "Channels of the first layer." }),
    strides: Type.Tuple([Type.Integer(), Type.Integer(), Type.Integer()], { default: [4, 8, 8] }),
    quantizer: component(
      "quantizers",
      {
        lfq: { schema: closed({ type: Type.Literal("lfq"), bits: Type.Integer({ default: 10 }) }) },
        vq: { schema: closed({ type: Type.Literal("vq"), codes: Type.Integer({ default: 512 }) }) },
      },
      "How vectors become codes.",
      { default: "lfq" },
    ),
  },
  { description: "Causal 3D CNN with LFQ." },
);

export const tokenizers = component(
  "codecs",
  { magvit: { schema: magvit }, magvit2: { schema: magvit2 } },
  "Clips to tokens and back.",
);

const evals = component("suites", {
  reconstruction: { schema: closed({ type: Type.Literal("reconstruction") }) },
  frechet: {
    schema: closed({
      type: Type.Literal("frechet"),
      samples: Type.Integer({ minimum: 1, default: 64 }),
    }),
  },
});

const datasets = component("clips", {
  shapes: {
    schema: closed({ type: Type.Literal("shapes"), frames: Type.Integer({ default: 8 }) }),
  },
  "video-folder": {
    schema: closed({
      type: Type.Literal("video-folder"),
      path: Type.String({ minLength: 1, description: "Folder of videos." }),
      frames: Type.Integer({ default: 8 }),
      fps: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    }),
  },
});

export const schema = closed({
  name: Type.String({ minLength: 1, description: "Names the results folder." }),
  seed: Type.Integer({ minimum: 0, default: 0 }),
  dataset: datasets,
  tokenizer: tokenizers,
  evals: Type.Record(Type.String(), evals, { default: {} }),
  trainer: closed({
    steps: Type.Integer({ minimum: 1, default: 100 }),
    lr: Type.Number({ exclusiveMinimum: 0, default: 1e-3 }),
    schedule: Type.Union([Type.Literal("cosine"), Type.Literal("constant")], { default: "cosine" }),
    clip: Type.Union([Type.Null(), Type.Number()], { default: null }),
    ema: Type.Boolean({ default: true }),
    threads: Type.Integer({ default: 0, semantic: false }),
  }),
  output: Type.String({ default: "results", semantic: false }),
});

export type Config = Static<typeof schema>;

const folders: string[] = [];
afterAll(() => {
  for (const root of folders) {
    rmSync(root, { recursive: true, force: true });
  }
});

/** Writes files under a folder of their own that goes when the tests end. */
export function folder(files: { readonly [path: string]: string | Uint8Array }): string {
  const root = mkdtempSync(join(tmpdir(), "config-"));
  folders.push(root);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

export type Files = { readonly [path: string]: string | Uint8Array };
export type Options = Partial<LoadOptions<Config>>;

/** A config that is valid as it stands. */
export const valid = `\
name: x
dataset: {type: shapes}
tokenizer: {type: magvit2, width: 32}
`;

/** Load experiments/x.yaml of the given files. */
export function load(
  files: Files | string,
  overrides: readonly string[] = [],
  options: Options = {},
): Resolved<Config> {
  const all = typeof files === "string" ? { "experiments/x.yaml": files } : files;
  const root = folder(all);
  const file = join(root, "experiments/x.yaml");
  return loadConfig<Config>({ schema, env: {}, ...options, file, overrides });
}

/** The message that loading ends with; the folder is cut out of it. */
export function failure(
  files: Files | string,
  overrides: readonly string[] = [],
  options: Options = {},
): string {
  try {
    load(files, overrides, options);
  } catch (error) {
    return (error as Error).message.replaceAll(/\/\S*\/config-\w+\//g, "");
  }
  return "no error";
}
