/**
 * @file The training loop of one stage, the same for tokenizers and transformers: step, check, log,
 * validate, save. It reads from top to bottom; what runs on the device is in step.ts.
 */

import { join } from "node:path";
import type * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import type { HostTensor, HostTensors } from "../runtime/tensors.ts";
import { type Checkpoint, latestCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import { appendLine, meet, type RunContext, writes, writeStatus } from "./context.ts";
import { divergedError, findBadTensors } from "./diagnose.ts";
import { MovingAverage } from "./ema.ts";
import { appendMetrics, truncateMetrics } from "./logging/metrics.ts";
import { EventWriter } from "./logging/tensorboard.ts";
import { AdamW } from "./optimizers.ts";
import { getVariable, setVariable, valuesOf } from "./packing.ts";
import { Interrupted, type StopSignal, turn } from "./signals.ts";
import {
  compileStage,
  CRITIC_LOSS,
  type Metrics,
  meanMetrics,
  type StageFunctions,
  type Task,
} from "./step.ts";

/** Folder of a stage's checkpoints. */
export function checkpointDir(runDir: string, stage: Task["stage"]): string {
  return join(runDir, "checkpoints", stage);
}

/**
 * Train a stage from its last checkpoint, or from its beginning, to its last step. Afterwards the
 * task's variables hold the last weights; checkpoints hold the averaged ones too.
 * @throws Interrupted after a checkpoint when a stop was asked for
 * @throws DivergedError when a loss or a gradient is not finite
 */
export async function trainStage(run: RunContext, task: Task): Promise<void> {
  const { stage, options } = task;
  const { steps } = options;
  const dir = checkpointDir(run.dir, stage);
  const jsonl = join(run.dir, "metrics.jsonl");

  await meet(run);
  const saved = latestCheckpoint(dir, run.warn);
  await compareRanks(run, dir, saved?.step ?? 0);
  if (saved?.step === steps) {
    return;
  }
  const optimizer = new AdamW(task.scope.trainable(), options, options.accumulate);
  const average = new MovingAverage(optimizer.packs);
  const opponent =
    task.adversary &&
    new AdamW(task.adversary.scope.trainable(), task.adversary.optimizer, options.accumulate);
  const state: State = {
    task,
    optimizers: opponent ? [optimizer, opponent] : [optimizer],
    average,
  };
  await resume(saved, state);
  let done = saved?.step ?? 0;
  let window = saved?.loop ?? { count: 0, sums: {} };
  const first = writes(run);
  if (first) {
    truncateMetrics(jsonl, stage, saved?.step ?? -1);
  }

  const functions = compileStage(run.device, task, optimizer, average, opponent);
  const board = first ? new EventWriter(join(run.dir, "tensorboard", stage), done) : undefined;
  const save = async (): Promise<void> => {
    if (!board) {
      return; // all ranks hold the same, and the first one writes it
    }
    const tensors = await gatherState(state);
    saveCheckpoint(dir, { step: done, tensors, loop: window });
    for (const [name, { data }] of tensors) {
      if (name.startsWith("model/")) {
        board.histogram(done, name, thin(data));
      }
    }
  };
  const log = (split: "train" | "validation", metrics: Metrics): void => {
    if (!board) {
      return;
    }
    appendMetrics(jsonl, { stage, step: done, split, ...metrics });
    board.scalars(
      done,
      Object.fromEntries(Object.entries(metrics).map(([name, x]) => [`${split}/${name}`, x])),
    );
  };
  const tell = (): void => {
    if (first) {
      writeStatus(run.dir, { state: "running", stage, step: done, steps });
    }
  };
  tell();
  run.progress.start(stage, done);
  const clock = new LoopClock();
  const said = new Set<string>();

  try {
    let upcoming = loadAhead(task, done);
    while (done < steps) {
      if (!run.group) {
        run.stop.check(); // asked for before the first step
      }
      const batches = await clock.waiting(upcoming);
      const asked = stopAsked(run);
      const running = functions.train(done, batches);
      // While the device works, the host prepares the next batch.
      upcoming = done + 1 < steps ? loadAhead(task, done + 1) : upcoming;
      const metrics = await running;
      const together = await asked;
      if (!steady.every((name) => Number.isFinite(metrics[name] ?? 0))) {
        throw await diverged(run, task, done, batches);
      }
      done += 1;
      window = addMetrics(window, metrics);
      await turn();
      // Ranks stop after the same step: at a signal that any of them had before it.
      const stopping = run.group ? together : run.stop.signal;
      const last = done === steps;

      if (last || done % options.log_every === 0) {
        const line = means(window);
        log("train", { ...line, lr: metrics["lr"]! });
        window = { count: 0, sums: {} };
        const lap = clock.lap(options.batch);
        if (first) {
          report(run, task, done, line, said);
          appendLine(run.dir, "timing.jsonl", { stage, step: done, ...lap });
        }
        tell();
      }
      run.progress.update(done, `loss ${metrics["loss"]!.toPrecision(4)}`);
      if (first && (last || done % options.validate_every === 0)) {
        const begin = performance.now();
        const held = await validate(task, functions);
        if (held !== undefined) {
          log("validation", held);
          run.progress.say(`${stage} ${done}: held-out loss ${held["loss"]!.toPrecision(4)}`);
        }
        clock.exclude(performance.now() - begin);
      }
      if (last || done % options.checkpoint_every === 0 || stopping !== undefined) {
        const begin = performance.now();
        await save();
        clock.exclude(performance.now() - begin);
        if (stopping !== undefined) {
          throw new Interrupted(stopping);
        }
      }
    }
    if (steps === 0) {
      await save();
    }
    await meet(run);
  } finally {
    run.progress.stop();
    optimizer.dispose();
    opponent?.dispose();
    average.dispose();
  }
}

/** The first signal that any of the ranks has been given, for all of them alike. */
async function stopAsked({ group, stop }: RunContext): Promise<StopSignal | undefined> {
  const signals = await group?.gather(stop.signal ?? null);
  return signals?.find((signal) => signal !== null) ?? undefined;
}

/** Throws unless all ranks go on from the same step. */
async function compareRanks({ group }: RunContext, dir: string, step: number): Promise<void> {
  const steps = (await group?.gather(step)) ?? [step];
  if (steps.some((other) => other !== step)) {
    throw new UserError(
      `the ranks see different checkpoints in ${dir}: of steps ${steps.join(", ")}`,
      "all hosts of a data-parallel training need the same output folder (a shared file system)",
    );
  }
}

/** The mean metrics of the held-out batches under the averaged weights. */
async function validate(task: Task, functions: StageFunctions): Promise<Metrics | undefined> {
  if (task.validationBatches === 0) {
    return undefined;
  }
  await functions.swap();
  const all: Metrics[] = [];
  for (let i = 0; i < task.validationBatches; i++) {
    all.push(await functions.validate(await task.validationBatch(i)));
    await turn(); // a second signal ends the process even here
  }
  await functions.swap();
  return meanMetrics(all);
}

/** Metrics that must be finite for the training to go on. */
const steady = ["loss", "grad_norm", CRITIC_LOSS, "critic_grad_norm"] as const;

/** What a stage's task finds in its metrics, told once a process. */
function report(
  run: RunContext,
  task: Task,
  step: number,
  metrics: Metrics,
  said: Set<string>,
): void {
  const finding = task.watch?.(step, metrics);
  if (finding && !said.has(finding.event)) {
    said.add(finding.event);
    appendLine(run.dir, "events.jsonl", { ...finding, stage: task.stage, step });
    run.warn(`${task.stage} ${step}: ${finding.message}; ${finding.remedy}`);
  }
}

/** Everything that a checkpoint of a stage holds. */
interface State {
  readonly task: Task;
  readonly optimizers: readonly AdamW[];
  readonly average: MovingAverage;
}

/** The variables of a task and of its adversary. */
function* variablesOf({ scope, adversary }: Task): Iterable<[string, tf.Variable]> {
  yield* scope.variables();
  if (adversary) {
    yield* adversary.scope.variables();
  }
}

async function resume(
  saved: Checkpoint | undefined,
  { task, optimizers, average }: State,
): Promise<void> {
  if (saved === undefined) {
    task.start?.();
    await average.start();
    return;
  }
  for (const [name, variable] of variablesOf(task)) {
    setVariable(variable, valuesOf(saved.tensors, `model/${name}`, variable.shape));
  }
  for (const optimizer of optimizers) {
    optimizer.load(saved.tensors);
  }
  average.load(saved.tensors);
}

async function gatherState({ task, optimizers, average }: State): Promise<Map<string, HostTensor>> {
  const tensors = new Map<string, HostTensor>();
  for (const [name, variable] of variablesOf(task)) {
    const data = await getVariable(variable);
    tensors.set(`model/${name}`, { dtype: "float32", shape: [...variable.shape], data });
  }
  await average.save(tensors);
  for (const optimizer of optimizers) {
    await optimizer.save(tensors);
  }
  return tensors;
}

async function diverged(
  run: RunContext,
  task: Task,
  step: number,
  batches: readonly HostTensors[],
): Promise<Error> {
  const bad = await findBadTensors(run.device, task, batches);
  if (writes(run)) {
    appendLine(run.dir, "events.jsonl", { event: "not-finite", stage: task.stage, step, bad });
  }
  return divergedError(task.stage, step, bad);
}

/** Start loading; a failure is kept for whoever awaits it. */
function loadAhead(task: Task, step: number): Promise<HostTensors[]> {
  const loading = task.batches(step);
  loading.catch(() => undefined);
  return loading;
}

interface Window {
  readonly count: number;
  readonly sums: Metrics;
}

function addMetrics({ count, sums }: Checkpoint["loop"], metrics: Metrics): Window {
  const next = Object.entries(metrics).map(([name, value]) => [name, (sums[name] ?? 0) + value]);
  return { count: count + 1, sums: Object.fromEntries(next) };
}

function means({ count, sums }: Checkpoint["loop"]): Metrics {
  return Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / count]));
}

/** At most 65,536 of the values, evenly spread: enough for a histogram. */
function thin(values: ArrayLike<number>): ArrayLike<number> {
  const stride = Math.ceil(values.length / 65_536);
  return stride === 1
    ? values
    : Float32Array.from(
        { length: Math.floor(values.length / stride) },
        (_, i) => values[i * stride]!,
      );
}

/** Where the time of a loop goes. Times are in milliseconds inside and seconds outside. */
class LoopClock {
  #begin = performance.now();
  #waited = 0;
  #excluded = 0;
  #steps = 0;

  /** Await a batch and count the time as waiting for data. */
  async waiting<T>(loading: Promise<T>): Promise<T> {
    const begin = performance.now();
    const value = await loading;
    this.#waited += performance.now() - begin;
    this.#steps += 1;
    return value;
  }

  /** Time that is not training. */
  exclude(milliseconds: number): void {
    this.#excluded += milliseconds;
  }

  /** Means since the last lap. */
  lap(batch: number): { step_seconds: number; items_per_second: number; data_wait_share: number } {
    const total = performance.now() - this.#begin - this.#excluded;
    const steps = Math.max(1, this.#steps);
    const figures = {
      step_seconds: total / steps / 1000,
      items_per_second: (1000 * batch * steps) / total,
      data_wait_share: this.#waited / total,
    };
    this.#begin = performance.now();
    [this.#waited, this.#excluded, this.#steps] = [0, 0, 0];
    return figures;
  }
}
