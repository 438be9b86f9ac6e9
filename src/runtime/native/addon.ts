/**
 * @file Finds and loads the compiled addon (native/cpu, built by scripts/build-native.mjs), from src/ and
 * from dist/ alike.
 */

import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Plan } from "./program.ts";

/** A program that the addon holds. */
export type Program = { readonly program: unique symbol };

type Arrays = readonly (Float32Array | Int32Array | Uint8Array)[];

/** The addon's functions; see native/cpu/addon.cc. */
export interface Addon {
  /** Names of steps; a step's code is its name's index. */
  steps(): string[];
  /** Names of element-wise instructions, likewise. */
  instructions(): string[];
  create(plan: Plan): Program;
  /** Computes off the main thread. The arrays must stay as they are until the promise is settled. */
  run(
    program: Program,
    inputs: Arrays,
    states: Arrays,
    nexts: Arrays,
    outputs: Arrays,
  ): Promise<void>;
  /** Milliseconds of each step so far, bodies of loops behind the rest, where the plan asked for a profile. */
  profile(program: Program): number[];
  /** The instruction set that it was compiled for. */
  about(): string;
  /** C += sign A Bᵀ; options [ldc, lda, ldb, r0, r1, c0, c1, k0, k1, sign, lower, from]. */
  product64(c: Float64Array, a: Float64Array, b: Float64Array, options: Float64Array): void;
  /** Symmetric a [n, n], destroyed, to a tridiagonal matrix: its diagonal d and what couples it, e. */
  tridiagonal64(a: Float64Array, d: Float64Array, e: Float64Array): void;
}

/** The folder that the addon is built into. */
export function addonFolder(): string {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(dir, "package.json")) && dirname(dir) !== dir) {
    dir = dirname(dir);
  }
  return join(dir, "build", "native", `${process.platform}-${process.arch}`);
}

export type Found =
  | { readonly addon: Addon; readonly missing?: undefined }
  | { readonly addon?: undefined; readonly missing: string };

let found: Found | undefined;

/** The addon, or why it cannot be had. */
export function findAddon(): Found {
  found ??= load();
  return found;
}

function load(): Found {
  const folder = addonFolder();
  const path = join(folder, "tessera_cpu.node");
  if (!existsSync(path)) {
    return {
      missing: "the native engine is not built: run `npm run build` (it needs a C++ compiler)",
    };
  }
  try {
    // Compiled for one processor: another one may lack its instructions.
    const { cpu } = JSON.parse(readFileSync(join(folder, "build.json"), "utf8")) as { cpu: string };
    const here = cpus()[0]?.model ?? "";
    if (cpu !== here) {
      return {
        missing: `the native engine was built for "${cpu}", this is "${here}": run \`npm run build\``,
      };
    }
    return { addon: createRequire(import.meta.url)(path) as Addon };
  } catch (error) {
    const message = error instanceof Error ? error.message.split("\n")[0]! : String(error);
    return { missing: `the native engine does not load (${message}): run \`npm run build\`` };
  }
}
