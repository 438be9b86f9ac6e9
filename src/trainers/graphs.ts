/** @file The training steps of an experiment as graphs, without training: what `tessera show --graph` prints. */

import { openDataset } from "../data/registry.ts";
import { Scope } from "../models/scope.ts";
import { tokenCount } from "../models/transformer.ts";
import type { Objective, TokenBatch } from "../objectives/objective.ts";
import { type Graph, liveNodes, printGraph } from "../runtime/graph.ts";
import { openGraphDevice } from "../runtime/graph-device.ts";
import { findAddon } from "../runtime/native/addon.ts";
import { FEATURES, planGraph } from "../runtime/native/device.ts";
import { MovingAverage } from "./ema.ts";
import type { Experiment } from "./experiment.ts";
import type { Modalities } from "./modalities.ts";
import { makeObjective, makeTokenizer } from "./networks.ts";
import { AdamW } from "./optimizers.ts";
import { compileStage, type Task } from "./step.ts";
import { tokenizerTask } from "./tokenizer-stage.ts";

/**
 * Trace an experiment's training steps.
 * @returns one text a compiled function: a line about its plan, then a node a line
 */
export async function trainingGraphs(config: Experiment): Promise<string[]> {
  const { addon } = findAddon();
  const graphs = await traceTraining(config, addon ? FEATURES : undefined);
  return graphs.map((graph) => `${summary(graph)}\n${printGraph(graph)}`);

  function summary(graph: Graph): string {
    const nodes = `${liveNodes(graph).length} nodes, ${graph.states.length} states`;
    if (!addon) {
      return `# ${graph.name}: ${nodes}`;
    }
    const { plan, inPlace } = planGraph(graph, addon, 1, false);
    const written = graph.states.filter(({ next }) => next).length;
    const over = inPlace.filter(Boolean).length;
    return `# ${graph.name}: ${nodes} (${over} of ${written} new ones in place), ${plan.labels.length} steps, arena ${(plan.arena / 2 ** 20).toFixed(1)} MiB`;
  }
}

/**
 * The graphs of an experiment's training steps on a device with some kernels of its own.
 * @param modalities of a run, for objectives that are made of more than clips
 * @param stages whose steps are traced
 */
export async function traceTraining(
  config: Experiment,
  features?: ReadonlySet<string>,
  modalities: Modalities = {},
  stages: readonly Task["stage"][] = ["tokenizer", "transformer"],
): Promise<readonly Graph[]> {
  const { device, graphs } = await openGraphDevice(features);
  const [train, held] = await Promise.all([
    openDataset(config.dataset, "train", config.seed),
    openDataset(config.dataset, "validation", config.seed),
  ]);
  try {
    // Shapes are all that a trace sees, and random numbers for hundreds of millions of parameters take a minute.
    const tokenizer = makeTokenizer(config, Scope.blank(0));
    const { trainer } = config;
    if (stages.includes("tokenizer")) {
      await traceStep(
        tokenizerTask(tokenizer, trainer.tokenizer, train, held, config.seed, config.tokenizer),
      );
    }
    const objective = stages.includes("transformer")
      ? makeObjective(config, tokenizer, train, modalities, Scope.blank(0))
      : undefined;
    if (objective) {
      const options = trainer.transformer;
      const size = options.batch / options.accumulate;
      const inputs = objective.inputs(
        emptyBatch(objective, size, modalities),
        config.seed,
        0,
        true,
      );
      await traceStep({
        stage: "transformer",
        scope: objective.scope,
        options,
        batches: () => Promise.resolve(Array.from({ length: options.accumulate }, () => inputs)),
        loss: (values) => objective.loss(values),
        validationBatches: 0,
        validationBatch: () => Promise.resolve(inputs),
      });
    }
  } finally {
    await Promise.all([train.close(), held.close()]);
  }
  return graphs;

  async function traceStep(task: Task): Promise<void> {
    const optimizer = new AdamW(task.scope.trainable(), task.options, task.options.accumulate);
    const average = new MovingAverage(optimizer.packs);
    const opponent =
      task.adversary &&
      new AdamW(
        task.adversary.scope.trainable(),
        task.adversary.optimizer,
        task.options.accumulate,
      );
    await compileStage(device, task, optimizer, average, opponent).train(0, await task.batches(0));
    optimizer.dispose();
    average.dispose();
    opponent?.dispose();
  }
}

/** Tokens of nothing: shapes are all that a trace sees. */
function emptyBatch(objective: Objective, size: number, { audio }: Modalities): TokenBatch {
  const { space, tasks, textLength = 0 } = objective;
  const ids = new Int32Array(size * tokenCount(space) * space.factors.length);
  return {
    ids,
    labels: new Int32Array(size),
    size,
    ...(tasks && { conditions: { tasks: new Int32Array(size), ids } }),
    ...(space.low && {
      low: new Int32Array(size * tokenCount(space.low) * space.factors.length),
    }),
    ...(audio && { audio: new Int32Array(size * audio.frames * audio.levels) }),
    ...(textLength > 0 && { texts: new Int32Array(size * textLength).fill(-1) }),
  };
}
