/** Against a plain PyTorch twin: scripts/goldens/generation.py wrote test/goldens/generation.json. */

import { readFileSync } from "node:fs";
import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { buildCausal } from "../../src/objectives/causal.ts";
import { decodingCounts, type MaskSchedule } from "../../src/objectives/mask-schedule.ts";
import { buildMasked, type MaskedConfig } from "../../src/objectives/masked.ts";
import type { CausalSampling } from "../../src/objectives/causal-sampler.ts";
import type { MaskedSampling } from "../../src/objectives/masked-sampler.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32, item } from "../../src/runtime/tensors.ts";
import { type GuidanceConfig, guidanceScale } from "../../src/objectives/sampling.ts";
import { guidancePasses } from "../../src/objectives/super-resolution/sampler.ts";
import { devicesHere } from "../tokenizers/golden-devices.ts";
import { maskedSampling, tinyModel, withoutTasks } from "./support.ts";

interface Golden {
  readonly counts: { readonly [key: string]: number[] };
  readonly guidance: { readonly [key: string]: number[] };
  readonly two_scales: {
    readonly low_guidance: number;
    readonly text_guidance: number;
    readonly free: number[];
    readonly low: number[];
    readonly both: number[];
    readonly logits: number[];
  };
  readonly commit: {
    readonly seed: number;
    readonly step: number;
    readonly label_dropout: number;
    readonly label_smoothing: number;
    readonly ids: number[];
    readonly given: number[];
    readonly tasks: number[];
    readonly labels: number[];
    readonly weights: {
      readonly reconstruct: number;
      readonly mask: number;
      readonly refine: number;
    };
    readonly part: number[];
    readonly loss: number;
    readonly mask_loss: number;
    readonly refine_loss: number;
    readonly reconstruct_loss: number;
  };
  readonly masked: {
    readonly seed: number;
    readonly tasks: number[];
    readonly labels: number[];
    readonly given: number[];
    readonly sampling: MaskedSampling;
    readonly ids: number[];
  };
  readonly causal: {
    readonly seed: number;
    readonly labels: number[];
    readonly ids: number[];
    readonly loss: number;
    readonly sampling: CausalSampling;
  };
}

const golden = JSON.parse(
  readFileSync(new URL("../goldens/generation.json", import.meta.url), "utf8"),
) as Golden;

const space = {
  grid: [2, 2, 2],
  factors: [3, 4],
  classes: 3,
  // Two latent frames of four frames: the first frame lies in the first.
  clip: { frames: 8, height: 8, width: 8, causal: false },
} as const;

/** The formula of the twin: values by a variable's rank among the sorted names. */
function fill(scope: Scope): void {
  const variables = [...scope.variables()].toSorted(([a], [b]) => (a < b ? -1 : 1));
  for (const [j, [name, variable]] of variables.entries()) {
    const values = Float32Array.from(
      { length: variable.size },
      (_, k) => 0.4 * Math.sin(1.3 * k + 0.7 * j + 0.1) + (name.endsWith("scale") ? 1 : 0),
    );
    variable.assign(tf.tensor(values, variable.shape));
  }
}

const worstDifference = (a: readonly number[], b: readonly number[]): number =>
  a.length === b.length ? Math.max(...a.map((x, i) => Math.abs(x - b[i]!))) : Number.NaN;

const masked = (changes: Partial<MaskedConfig>): MaskedConfig => ({
  type: "masked",
  mask_schedule: "cosine",
  label_dropout: golden.commit.label_dropout,
  label_smoothing: golden.commit.label_smoothing,
  ...withoutTasks,
  tasks: [
    { task: "FP", weight: 1 },
    { task: "CG", weight: 1 },
  ],
  sampling: maskedSampling,
  ...changes,
});

describe("counts of decided tokens", () => {
  test.each(Object.entries(golden.counts))("%s", (key, counts) => {
    const [schedule, unknown, steps] = key.split(" ");
    expect(decodingCounts(schedule as MaskSchedule, Number(unknown), Number(steps))).toEqual(
      counts,
    );
  });
});

describe("guidance", () => {
  test.each(Object.entries(golden.guidance))("scales of the schedule %s", (key, scales) => {
    const [schedule, guidance, power, steps] = key.split(" ");
    const config = {
      guidance: Number(guidance),
      guidance_schedule: schedule as GuidanceConfig["guidance_schedule"],
      guidance_power: Number(power),
    };
    const ours = scales.map((_, step) => guidanceScale(config, step + 1, Number(steps)));
    expect(worstDifference(ours, scales)).toBeLessThan(1e-12);
  });
});

const found = await devicesHere("generation's goldens");

test("there is the reference and at least one compiled device", () => {
  expect(found.map(([name]) => name)).toContain("reference");
  expect(found.length).toBeGreaterThan(1);
});

describe.each(found)("on device %s", (_, config) => {
  test("guidance by two conditions gives the twin's logits", async () => {
    const device = await openDevice(config);
    const { free, low, both, logits, low_guidance, text_guidance } = golden.two_scales;
    const passes = guidancePasses(low_guidance, text_guidance, true);
    const shown = passes.map((pass) => (pass.text ? both : pass.low ? low : free));
    const sum = device.compile("two-scales", (inputs) => ({
      logits: tf.addN(passes.map(({ weight }, i) => tf.mul(inputs[`x${i}`]!, weight))),
    }));
    const inputs = shown.map(
      (values, i) => [`x${i}`, float32([values.length], Float32Array.from(values))] as const,
    );
    const out = await sum(Object.fromEntries(inputs));
    expect(worstDifference([...out["logits"]!.data], logits)).toBeLessThan(1e-5);
    device.dispose();
  });

  test("COMMIT: parts, the three losses and their weighted mean", async () => {
    const device = await openDevice(config);
    const { commit } = golden;
    const objective = buildMasked(
      masked({
        reconstruct_weight: commit.weights.reconstruct,
        mask_weight: commit.weights.mask,
        refine_weight: commit.weights.refine,
      }),
      tinyModel,
      space,
      Scope.root(0),
    );
    fill(objective.scope);
    const inputs = objective.inputs(
      {
        ids: Int32Array.from(commit.ids),
        labels: Int32Array.from(commit.labels),
        size: 4,
        conditions: {
          tasks: Int32Array.from(commit.tasks),
          ids: Int32Array.from(commit.given),
        },
      },
      commit.seed,
      commit.step,
      true,
    );
    expect([...inputs["part"]!.data]).toEqual(commit.part);
    const compiled = device.compile("loss", (tensors) => {
      const { loss, metrics } = objective.loss(tensors);
      return { loss, ...metrics };
    });
    const out = await compiled(inputs);
    for (const name of ["loss", "mask_loss", "refine_loss", "reconstruct_loss"] as const) {
      expect(item(out[name])).toBeCloseTo(commit[name], 4);
    }
    device.dispose();
  });

  test("masked decoding under COMMIT with scheduled guidance gives the twin's ids", async () => {
    const device = await openDevice(config);
    const { sampling, tasks, labels, given, seed, ids } = golden.masked;
    const objective = buildMasked(masked({ sampling }), tinyModel, space, Scope.root(0));
    fill(objective.scope);
    const made = await objective.sampler(device)({
      labels: Int32Array.from(labels),
      seed,
      conditions: { tasks: Int32Array.from(tasks), ids: Int32Array.from(given) },
    });
    expect([...made]).toEqual(ids);
    device.dispose();
  });

  test("causal decoding with guidance gives the twin's ids, and their loss", async () => {
    const device = await openDevice(config);
    const { sampling, labels, seed, ids, loss } = golden.causal;
    const settings = { type: "causal", label_dropout: 0.1, label_smoothing: 0, sampling } as const;
    const objective = buildCausal(settings, tinyModel, space, Scope.root(0));
    fill(objective.scope);
    const made = await objective.sampler(device)({ labels: Int32Array.from(labels), seed });
    expect([...made]).toEqual(ids);
    const batch = { ids: made, labels: Int32Array.from(labels), size: 4 };
    const compiled = device.compile("loss", (tensors) => ({ loss: objective.loss(tensors).loss }));
    expect(item((await compiled(objective.inputs(batch, 0, 0, false)))["loss"])).toBeCloseTo(
      loss,
      4,
    );
    device.dispose();
  });
});
