/**
 * @file The last stage: every suite of the config in its order. Scores of finished suites are kept
 * in scores.partial.json, so an interrupted evaluation goes on with the next suite.
 */

import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { buildSuite } from "../eval/registry.ts";
import type { EvalContext, Score } from "../eval/suite.ts";
import type { Objective } from "../objectives/objective.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { appendLine, type RunContext } from "./context.ts";
import type { Experiment } from "./experiment.ts";
import type { SamplingChanges } from "./suite-checks.ts";
import { turn } from "./signals.ts";

/** scores.json. */
export interface Scores {
  readonly scores: readonly Score[];
}

interface PartialScores extends Scores {
  /** Scores by the name of their evaluation. */
  readonly suites: { readonly [name: string]: readonly Score[] };
}

/** The trained networks, with averaged weights. */
export interface Networks {
  readonly tokenizer: Tokenizer;
  readonly objective?: Objective;
  /** The objective with the same weights and other sampling; the caller disposes of its scope. */
  readonly resampled?: (sampling: SamplingChanges) => Objective;
}

/** Run one suite's config with these networks. */
export async function evaluateSuite(
  run: RunContext,
  config: Experiment["evals"][string],
  name: string,
  networks: Networks,
  batch: number,
): Promise<Score[]> {
  const changes = ("sampling" in config && config.sampling) || {};
  const other = Object.keys(changes).length > 0 ? networks.resampled?.(changes) : undefined;
  const objective = other ?? networks.objective;
  const context: EvalContext = {
    device: run.device,
    seed: run.seed,
    batch,
    dataset: run.dataset,
    tokenizer: networks.tokenizer,
    ...(objective && { objective }),
    samplesDir() {
      const dir = join(run.dir, "samples", name);
      mkdirSync(dir, { recursive: true });
      return dir;
    },
    warn: (message) => run.warn(`${name}: ${message}`),
    progress(message, done, total) {
      run.stop.check();
      run.progress.note(
        `${name}: ${message}${total === undefined ? "" : ` ${done ?? 0}/${total}`}`,
      );
    },
  };
  try {
    return await buildSuite(config, name).run(context);
  } finally {
    other?.scope.dispose();
  }
}

/** Evaluate everything that has no scores yet and write scores.json. */
export async function evaluateAll(
  run: RunContext,
  config: Experiment,
  networks: Networks,
): Promise<readonly Score[]> {
  const final = join(run.dir, "scores.json");
  if (existsSync(final)) {
    return (JSON.parse(readFileSync(final, "utf8")) as Scores).scores;
  }
  const partial = join(run.dir, "scores.partial.json");
  const suites: { [name: string]: readonly Score[] } = existsSync(partial)
    ? { ...(JSON.parse(readFileSync(partial, "utf8")) as PartialScores).suites }
    : {};
  const names = Object.keys(config.evals);
  run.progress.start("evaluation", 0);
  for (const [i, name] of names.entries()) {
    if (suites[name] === undefined) {
      const begin = performance.now();
      const { batch } = config.trainer.evaluation;
      suites[name] = await evaluateSuite(run, config.evals[name]!, name, networks, batch);
      const seconds = (performance.now() - begin) / 1000;
      appendLine(run.dir, "timing.jsonl", { stage: "evaluation", suite: name, seconds });
      const state: PartialScores = { suites, scores: Object.values(suites).flat() };
      writeFileAtomic(partial, `${JSON.stringify(state, null, 2)}\n`);
    }
    run.progress.update(i + 1, name);
    await turn();
    run.stop.check();
  }
  run.progress.stop();
  const scores = names.flatMap((name) => suites[name]!);
  writeFileAtomic(final, `${JSON.stringify({ scores }, null, 2)}\n`);
  rmSync(partial, { force: true });
  return scores;
}
