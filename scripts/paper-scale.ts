/**
 * @file Trainings at the papers' sizes on procedural clips, and what they cost: `npx tsx scripts/paper-scale.ts`.
 *
 *   paper-scale [--only NAME]... [--stage tokenizer | transformer]... [--steps N] [--clips N] [--precision P]
 *               [--device cuda | torch-cpu] [OVERRIDE ...]
 *
 * Each stage of each experiment trains in a process of its own, by the functions and on the data of `tessera run`
 * but without checkpoints, validation and evaluation. The transformer reads tokens of an untrained tokenizer:
 * what it costs does not depend on what they mean. After its training it makes clips, one at a time.
 *
 * Printed for each stage: seconds a step, items and tokens a second, the share of the device's measured rate of
 * products, the share of the time spent waiting for data, first and last loss; the peak of the GPU's memory; for
 * transformers the time of a clip and of a token of it.
 */

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ceilingsOf, flopsOf } from "../bench/work.ts";
import { loadConfig } from "../src/config/resolve.ts";
import { clipGenerator } from "../src/eval/generation.ts";
import { isMultimodal } from "../src/objectives/multimodal/objective.ts";
import type { Objective } from "../src/objectives/objective.ts";
import { Scope } from "../src/models/scope.ts";
import type { Device } from "../src/runtime/device.ts";
import { Random } from "../src/runtime/random.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { sizeOf } from "../src/runtime/tensors.ts";
import { TORCH_FEATURES } from "../src/runtime/torch/lowering.ts";
import type { Tokenizer } from "../src/tokenizers/tokenizer.ts";
import { cacheConditions } from "../src/trainers/conditions.ts";
import type { RunContext } from "../src/trainers/context.ts";
import { MovingAverage } from "../src/trainers/ema.ts";
import { checks, type Experiment, experimentSchema } from "../src/trainers/experiment.ts";
import { traceTraining } from "../src/trainers/graphs.ts";
import { Progress, standardOutput } from "../src/trainers/logging/progress.ts";
import { type Modalities, openModalities, prepareModalities } from "../src/trainers/modalities.ts";
import { makeObjective, makeTokenizer } from "../src/trainers/networks.ts";
import { AdamW } from "../src/trainers/optimizers.ts";
import { setVariable } from "../src/trainers/packing.ts";
import { StopRequest } from "../src/trainers/signals.ts";
import { openOnce, transformerStage } from "../src/trainers/sources.ts";
import { compileStage, type Task } from "../src/trainers/step.ts";
import { tokenizerTask } from "../src/trainers/tokenizer-stage.ts";
import { cacheTokens } from "../src/trainers/tokens.ts";
import { endWithParent } from "./end-with-parent.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: "string", multiple: true, default: ["magvit-l", "videopoet-300m"] },
    stage: { type: "string", multiple: true, default: ["tokenizer", "transformer"] },
    steps: { type: "string", default: "200" },
    /** Training clips; a transformer takes them in turn. */
    clips: { type: "string", default: "64" },
    precision: { type: "string", default: "bf16" },
    device: { type: "string", default: "cuda" },
    /** Measure one stage of one experiment; what this script calls itself with. */
    one: { type: "string" },
  },
});
const steps = Number(values.steps);

const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[Math.floor(xs.length / 2)]!;
const print = (text: string) => process.stdout.write(`${text}\n`);
const since = (begin: number) => (performance.now() - begin) / 1000;

interface Trained {
  /** Seconds of the first step, which traces, compiles and chooses algorithms. */
  readonly first: number;
  /** Seconds of each later step, and of them those that were spent waiting for data. */
  readonly seconds: readonly number[];
  readonly waited: readonly number[];
  readonly losses: readonly number[];
}

/** The training loop of a stage: the step's compiled function, the next batch loaded beside it. */
async function train(device: Device, task: Task, said: (what: string) => void): Promise<Trained> {
  const optimizer = new AdamW(task.scope.trainable(), task.options, task.options.accumulate);
  const average = new MovingAverage(optimizer.packs);
  task.start?.();
  await average.start();
  const functions = compileStage(device, task, optimizer, average);
  const [seconds, waited, losses]: [number[], number[], number[]] = [[], [], []];
  let upcoming = task.batches(0);
  for (let step = 0; step < steps; step++) {
    const begin = performance.now();
    const batches = await upcoming;
    waited.push(since(begin));
    const running = functions.train(step, batches);
    upcoming = task.batches(step + 1);
    upcoming.catch(() => undefined);
    losses.push((await running)["loss"]!);
    seconds.push(since(begin));
    if (step === 0 || (step + 1) % 50 === 0) {
      said(`step ${step + 1}, ${(1000 * seconds.at(-1)!).toFixed(0)} ms`);
    }
  }
  await upcoming;
  optimizer.dispose();
  average.dispose();
  return { first: seconds[0]!, seconds: seconds.slice(1), waited: waited.slice(1), losses };
}

/**
 * Starting values that cost no minute: a pool of normal numbers again and again, of the deviation 0.02 that the
 * transformers' own have about, ones for the scales of norms, zeros for other vectors.
 */
function fillCheaply(scope: Scope): void {
  const pool = new Random(0, "paper-scale").normals(2 ** 16).map((x) => 0.02 * x);
  for (const [name, variable] of scope.variables()) {
    const values = new Float32Array(variable.size);
    if (variable.rank > 1) {
      for (let at = 0; at < values.length; at += pool.length) {
        values.set(pool.subarray(0, Math.min(pool.length, values.length - at)), at);
      }
    } else if (name.endsWith("scale")) {
      values.fill(1);
    }
    setVariable(variable, values);
  }
}

/** Clips one at a time: seconds of each after one that compiles, and the tokens of one. */
async function decode(
  run: RunContext,
  tokenizer: Tokenizer,
  objective: Objective,
  { audio }: Modalities,
) {
  const generate = clipGenerator(run.device, tokenizer, objective);
  const task = objective.tasks?.names[0];
  const sources = [await (await run.dataset("validation")).get(0, 0)];
  const made = () => generate({ ...(task !== undefined && { task }), sources, seed: 0 });
  await made();
  const seconds: number[] = [];
  for (let i = 0; i < 3; i++) {
    const begin = performance.now();
    await made();
    seconds.push(since(begin));
  }
  const sound = isMultimodal(objective) && task?.includes("A") && audio;
  const tokens =
    sizeOf(tokenizer.grid) * tokenizer.factors.length + (sound ? audio.frames * audio.levels : 0);
  return { task: task ?? "by class", seconds: median(seconds), tokens };
}

async function measure(name: string, stage: Task["stage"]): Promise<void> {
  const output = mkdtempSync(join(tmpdir(), "tessera-paper-scale-"));
  try {
    const { config } = loadConfig<Experiment>({
      file: fileURLToPath(new URL(`../configs/experiments/${name}.yaml`, import.meta.url)),
      overrides: [
        `device={type: ${values.device}, precision: ${values.precision}}`,
        `dataset.size=${values.clips}`,
        "dataset.validation_size=8",
        ...positionals,
      ],
      schema: experimentSchema,
      checks,
    });
    const device = await openDevice(config.device);
    const ceilings = await (values.device === "cuda"
      ? ceilingsOf(device)
      : ceilingsOf(device, 512, 2 ** 20));
    const datasets: Parameters<typeof openOnce>[0] = new Map();
    const progress = new Progress(standardOutput());
    const run: RunContext = {
      dir: output,
      seed: config.seed,
      device,
      progress,
      stop: new StopRequest(),
      dataset: (split) => openOnce(datasets, config, split),
      warn: (message) => print(`warning: ${message}`),
    };
    const { trainer, seed } = config;
    const [training, held] = [await run.dataset("train"), await run.dataset("validation")];
    const begun = performance.now();
    const said = (what: string): void => {
      print(`  ${since(begun).toFixed(1)} s: ${what}`);
    };
    const tokenizer = makeTokenizer(config, Scope.blank(seed));
    fillCheaply(tokenizer.scope);
    print(`\n${name}, ${stage}, on ${device.info.description}`);
    said("the tokenizer is there");

    let modalities: Modalities = {};
    let objective: Objective | undefined;
    let task: Task;
    if (stage === "tokenizer") {
      task = tokenizerTask(tokenizer, trainer.tokenizer, training, held, seed, config.tokenizer);
    } else {
      const cached = [training, held].map((dataset) => ({ dataset, clips: dataset.size }));
      const { batch } = trainer.tokens;
      const quiet = () => undefined;
      for (const { dataset, clips } of cached) {
        await cacheTokens(run, tokenizer, dataset, { batch, clips }, quiet);
      }
      await prepareModalities(run, config.objective, cached, quiet);
      modalities = openModalities(run.dir, config.objective, device);
      said(`tokens of ${training.size + held.size} clips`);
      objective = makeObjective(config, tokenizer, training, modalities, Scope.blank(seed))!;
      fillCheaply(objective.scope);
      said("the transformer is there");
      for (const { dataset, clips } of objective.tasks ? cached : []) {
        await cacheConditions(run, tokenizer, objective.tasks!, dataset, { batch, clips }, quiet);
      }
      said("tokens of the tasks' conditions");
      task = await transformerStage(run, config, objective, modalities);
    }

    const { first, seconds, waited, losses } = await train(device, task, said);
    const graphs = await traceTraining(config, TORCH_FEATURES, modalities, [stage]);
    device.activate();
    const { batch, accumulate } = task.options;
    const work = accumulate * graphs.reduce((sum, graph) => sum + flopsOf(graph), 0);
    const step = median(seconds);
    const share = waited.reduce((a, b) => a + b, 0) / seconds.reduce((a, b) => a + b, 0);
    print(
      `  ${steps} steps: ${(1000 * step).toFixed(1)} ms a step of ${batch} (median; the first ${first.toFixed(1)} s), ` +
        `${(batch / step).toFixed(1)} items/s, ${((batch / step) * sizeOf(tokenizer.grid)).toFixed(0)} visual tokens/s; ` +
        `${(work / 1e12).toFixed(1)} TFLOP a step, ${(work / step / 1e12).toFixed(0)} TFLOP/s, ` +
        `${((100 * work) / step / ceilings.flops).toFixed(0)} % of the measured ${(ceilings.flops / 1e12).toFixed(0)}; ` +
        `${(100 * share).toFixed(0)} % waiting for data; loss ${losses[0]!.toPrecision(4)} to ${losses.at(-1)!.toPrecision(4)}`,
    );
    if (objective) {
      const clip = await decode(run, tokenizer, objective, modalities);
      print(
        `  decoding, ${config.objective!.type}, task ${clip.task}: ${clip.seconds.toFixed(3)} s a clip of ${clip.tokens} ids, ` +
          `${((1000 * clip.seconds) / clip.tokens).toFixed(3)} ms an id, pixels included`,
      );
    }
    print(`  at most ${((device.memory?.().most ?? 0) / 2 ** 30).toFixed(1)} GiB of GPU memory`);
    progress.stop();
  } finally {
    rmSync(output, { recursive: true, force: true });
  }
}

if (values.one === undefined) {
  for (const name of values.only) {
    for (const stage of values.stage) {
      const flags = ["steps", "clips", "precision", "device"].flatMap((key) => [
        `--${key}`,
        values[key as "steps"],
      ]);
      const self = [...process.execArgv, process.argv[1]!];
      const args = [...self, "--one", name, "--stage", stage, ...flags, ...positionals];
      const { status } = spawnSync(process.execPath, args, { stdio: "inherit" });
      process.exitCode = status === 0 ? process.exitCode : 1;
    }
  }
} else {
  endWithParent();
  await measure(values.one, values.stage[0] as Task["stage"]);
  process.exit(process.exitCode ?? 0);
}
