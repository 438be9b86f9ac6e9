/** @file The command of a trial: `tessera run` on its frozen config, or the sweep's own program. */

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { SweepFolder, TrialRow } from "./folder.ts";

/** How to start a Tessera command from the folder of its program. */
export function programOf(root: string): string[] {
  const built = join(root, "dist", "cli", "main.js");
  return existsSync(built)
    ? [process.execPath, built]
    : [
        process.execPath,
        "--import",
        import.meta.resolve("tsx"),
        join(root, "src", "cli", "main.ts"),
      ];
}

/** The folder of the program that is running. */
export const ownRoot = fileURLToPath(new URL("../..", import.meta.url));

/** The program that a sweep's trials run from: its copy, or the one that is running. */
export function sweepProgram(folder: SweepFolder): string[] {
  const { code } = folder.record;
  return programOf(code === undefined ? ownRoot : resolve(folder.dir, "code", code));
}

/**
 * The words that run a trial.
 * @param ranks processes that it starts itself; 1 where a scheduler starts each of them
 */
export function trialCommand(folder: SweepFolder, trial: TrialRow, ranks = 1): string[] {
  const config = resolve(folder.configPath(trial));
  const { command } = folder.sweep;
  if (command === undefined) {
    const devices = ranks > 1 ? ["--devices", String(ranks)] : [];
    return [...sweepProgram(folder), "run", config, "--reuse", ...devices];
  }
  const values: { readonly [name: string]: string } = {
    config,
    dir: folder.at(trial.dir),
    id: trial.id,
    seed: String(trial.seed),
  };
  return command.map((word) =>
    word.replaceAll(/\{(config|dir|id|seed)\}/g, (_, name: string) => values[name]!),
  );
}
