/**
 * @file A run as the other ranks of a data-parallel training live it: they take part in the training steps and
 * leave everything else (files, tokens, samples, scores) to rank 0, for which they wait.
 */

import type { Dataset } from "../data/dataset.ts";
import type { Score } from "../eval/suite.ts";
import type { Group, Membership } from "../runtime/group.ts";
import { openDevice } from "../runtime/registry.ts";
import { meet, type RunContext, type Split } from "./context.ts";
import type { Experiment } from "./experiment.ts";
import { Progress } from "./logging/progress.ts";
import { trainStage } from "./loop.ts";
import { openModalities } from "./modalities.ts";
import { makeObjective, makeTokenizer } from "./networks.ts";
import { exitCodeOf, Interrupted, listenForSignals, type StopRequest } from "./signals.ts";
import { openOnce, transformerStage } from "./sources.ts";
import { tokenizerTask } from "./tokenizer-stage.ts";

/** Take part in the run of rank 0, which is in `dir`. */
export async function follow(
  config: Experiment,
  dir: string,
  membership: Membership,
  stop: StopRequest,
): Promise<{
  readonly dir: string;
  readonly state: "finished" | "interrupted";
  readonly exitCode: number;
  readonly scores: readonly Score[];
}> {
  const unlisten = listenForSignals(stop, () => undefined);
  const datasets = new Map<Split, Promise<Dataset>>();
  let group: Group | undefined;
  try {
    const device = await openDevice(config.device, membership);
    group = device.group!;
    const run: RunContext = {
      dir,
      seed: config.seed,
      device,
      progress: new Progress({ terminal: false, line: () => undefined }),
      stop,
      dataset: (split) => openOnce(datasets, config, split),
      warn: () => undefined, // rank 0 has the same to say
      group,
    };
    await trainStages(run, config);
    await group.leave();
    return { dir, state: "finished", exitCode: 0, scores: [] };
  } catch (error) {
    // Between the stages rank 0 stops by itself, and that ends the wait for it.
    const signal = error instanceof Interrupted ? error.signal : stop.signal;
    if (error instanceof Interrupted) {
      await group?.leave();
    }
    if (signal === undefined) {
      throw error;
    }
    return { dir, state: "interrupted", exitCode: exitCodeOf(signal), scores: [] };
  } finally {
    for (const dataset of datasets.values()) {
      await dataset.then((opened) => opened.close()).catch(() => undefined);
    }
    unlisten();
  }
}

async function trainStages(run: RunContext, config: Experiment): Promise<void> {
  const { trainer, seed, tokenizer: given } = config;
  const train = await run.dataset("train");
  const validation = await run.dataset("validation");
  const tokenizer = makeTokenizer(config);
  await trainStage(
    run,
    tokenizerTask(tokenizer, trainer.tokenizer, train, validation, seed, given, run.group),
  );
  if (config.objective === undefined) {
    return;
  }
  await meet(run); // rank 0 makes the tokens
  const modalities = openModalities(run.dir, config.objective, run.device);
  const objective = makeObjective(config, tokenizer, train, modalities)!;
  await trainStage(run, await transformerStage(run, config, objective, modalities));
}
