/**
 * @file How many parameters the paper-scale tokenizers have, beside what their papers state:
 * `npm run parameters`. Exit code 1 when one is more than 5 % off. Networks are counted, not made.
 */

import { fileURLToPath } from "node:url";
import { loadConfig } from "../src/config/resolve.ts";
import { Scope } from "../src/models/scope.ts";
import { buildTokenizer } from "../src/tokenizers/registry.ts";
import { checks, clipShape, type Experiment, experimentSchema } from "../src/trainers/experiment.ts"; // biome-ignore format: one line

/** Presets at paper scale: frames of 128×128, the published parameters in millions, and where they stand. */
export const published: readonly (readonly [
  preset: string,
  frames: number,
  millions: number | undefined,
  source: string,
])[] = [
  ["magvit-b", 16, 41, "MAGVIT, base model"],
  ["magvit-l", 16, 158, "MAGVIT, large model"],
  ["vqgan-2d", 16, 53, "MAGVIT's 2D baseline"],
  ["magvit2-b", 17, 58, "MAGVIT-v2, table 5a: causal 3D CNN"],
  ["cvivit-b", 17, 90, "MAGVIT-v2, table 5a: C-ViViT"],
  ["magvit2", 17, undefined, "hyper-parameters published, no count"],
  ["cvivit", 17, undefined, "hyper-parameters published, no count"],
  ["tats", 16, undefined, "no count published"],
  ["spae", 1, undefined, "no count published"],
];

/** Parameters of a preset for clips of `frames` frames of 128×128. */
export function countParameters(preset: string, frames: number): number {
  const { config } = loadConfig<Experiment>({
    file: fileURLToPath(new URL("../configs/experiments/tokenizer.yaml", import.meta.url)),
    schema: experimentSchema,
    checks,
    overrides: [`tokenizer=@${preset}`, `dataset.frames=${frames}`, "dataset.height=128", "dataset.width=128"], // biome-ignore format: one list
  });
  const scope = Scope.shapes();
  buildTokenizer(config.tokenizer, clipShape(config), scope);
  return scope.parameterCount();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [preset, frames, millions, source] of published) {
    const count = countParameters(preset, frames);
    const off = millions === undefined ? undefined : count / (millions * 1e6) - 1;
    const against =
      off === undefined ? source : `published ${millions} M, ${(100 * off).toFixed(1)} % off (${source})`; // biome-ignore format: one line
    process.stdout.write(
      `${preset.padEnd(10)} ${count.toLocaleString("en").padStart(12)} parameters  ${against}\n`,
    );
    if (off !== undefined && Math.abs(off) > 0.05) {
      process.exitCode = 1;
    }
  }
}
