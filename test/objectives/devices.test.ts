import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { buildObjective, type ObjectiveConfig } from "../../src/objectives/registry.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import type { HostTensors } from "../../src/runtime/tensors.ts";
import {
  causalSampling,
  maskedSampling,
  randomBatch,
  shake,
  tinyModel,
  withoutTasks,
} from "./support.ts";

const space = {
  grid: [1, 2, 3],
  factors: [4, 6],
  classes: 3,
  clip: { frames: 1, height: 4, width: 6, causal: false },
} as const;
const tasks = { tasks: [{ task: "OPV", weight: 1 }], reconstruct_weight: 0.5 } as const;
const draw = { temperature: 0.9, top_k: 5, top_p: 0.95, guidance: 2 };
const common = { label_dropout: 0.5, label_smoothing: 0.1 };
const configs: ObjectiveConfig[] = [
  {
    type: "masked",
    mask_schedule: "linear",
    ...withoutTasks,
    ...common,
    sampling: { ...maskedSampling, ...draw },
  },
  ...(["commit", "prefix"] as const).map(
    (conditioning): ObjectiveConfig => ({
      type: "masked",
      mask_schedule: "linear",
      ...withoutTasks,
      ...common,
      ...tasks,
      tasks: [...tasks.tasks],
      conditioning,
      sampling: { ...maskedSampling, ...draw, guidance_schedule: "power-cosine" },
    }),
  ),
  { type: "causal", ...common, sampling: { ...causalSampling, ...draw } },
  { type: "causal", ...common, sampling: { ...causalSampling, ...draw, cache: false } },
];

/** Loss, all gradients and a sample of the same model on one device. */
async function results(
  type: "cpu" | "reference",
  config: ObjectiveConfig,
): Promise<{ outputs: HostTensors; sample: Int32Array }> {
  const device = await openDevice({ type, threads: 1 });
  try {
    const objective = buildObjective(config, tinyModel, space, Scope.root(4));
    shake(objective.scope);
    const variables = objective.scope.trainable();
    const step = device.compile("step", (inputs) => {
      const { value, grads } = tf.variableGrads(
        () => objective.loss(inputs).loss,
        [...variables.values()],
      );
      const { metrics } = objective.loss(inputs);
      const byName = [...variables].map(([name, variable]) => [name, grads[variable.name]!]);
      return { loss: value, ...metrics, ...(Object.fromEntries(byName) as typeof metrics) };
    });
    const conditions = (size: number) =>
      objective.tasks && {
        conditions: { tasks: new Int32Array(size), ids: randomBatch(space, size, 8).ids },
      };
    const batch = { ...randomBatch(space, 3, 2), ...conditions(3) };
    const outputs = await step(objective.inputs(batch, 7, 1, true));
    const labels = Int32Array.of(0, 1, 2, -1);
    const known = Uint8Array.from({ length: 4 * 6 }, (_, i) => Number(i % 4 === 1));
    const { ids } = randomBatch(space, 4, 3);
    const sample = await objective.sampler(device)({
      labels,
      seed: 5,
      condition: { ids, known },
      ...conditions(4),
    });
    return { outputs, sample };
  } finally {
    device.dispose();
  }
}

describe("the compiled device agrees with the reference", () => {
  test.each(configs)(
    "$type: loss, metrics, every gradient, and samples ($sampling.cache)",
    async (config) => {
      const compiled = await results("cpu", config);
      const reference = await results("reference", config);
      expect(Object.keys(compiled.outputs)).toEqual(Object.keys(reference.outputs));
      const wrong = Object.entries(reference.outputs).flatMap(([name, { data }]) => {
        const other = compiled.outputs[name]!.data;
        const scale = 1e-3 + Math.max(...Array.from(data, Math.abs));
        const worst = Math.max(...Array.from(data, (value, i) => Math.abs(value - other[i]!)));
        return other.length === data.length && worst < 1e-4 * scale ? [] : [`${name}: ${worst}`];
      });
      expect(wrong).toEqual([]);
      expect(compiled.sample).toEqual(reference.sample);
    },
  );
});
