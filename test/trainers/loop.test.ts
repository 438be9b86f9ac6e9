import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import { openDevice } from "../../src/runtime/registry.ts";
import { readMetrics } from "../../src/trainers/logging/metrics.ts";
import { checkpointDir, trainStage } from "../../src/trainers/loop.ts";
import { Interrupted } from "../../src/trainers/signals.ts";
import type { Task } from "../../src/trainers/step.ts";
import { temporaryFolder, tinyRun, tinyTask } from "./support.ts";

/** Everything of a stage that must not depend on interruptions. */
function outcome(dir: string) {
  const folder = checkpointDir(dir, "tokenizer");
  const last = readdirSync(folder)
    .filter((name) => name.endsWith(".safetensors"))
    .sort()
    .at(-1)!;
  return {
    last,
    bytes: readFileSync(join(folder, last)).toString("base64"),
    metrics: readFileSync(join(dir, "metrics.jsonl"), "utf8"),
  };
}

async function train(task: Task, dir = temporaryFolder()) {
  const run = await tinyRun(dir);
  await trainStage(run, task);
  return { dir, run };
}

// The tiny tasks' variables belong to the device that is active when they are made.
beforeAll(async () => void (await openDevice({ type: "reference" })));

describe("training loop", () => {
  test("learns, logs and validates", async () => {
    const { dir } = await train(tinyTask({ steps: 60 }));
    const lines = readMetrics(join(dir, "metrics.jsonl"));
    const held = lines.filter(({ split }) => split === "validation");
    expect(held.map(({ step }) => step)).toEqual(Array.from({ length: 15 }, (_, i) => 4 * (i + 1)));
    expect(held.at(-1)!["loss"]).toBeLessThan(0.5 * (held[0]!["loss"] as number));
    const trained = lines.filter(({ split }) => split === "train");
    expect(Object.keys(trained[0]!).sort()).toEqual(
      ["grad_norm", "loss", "lr", "mae", "split", "stage", "step"].sort(),
    );
  });

  test("two trainings are equal to the byte; another number of them is not", async () => {
    const a = outcome((await train(tinyTask())).dir);
    expect(outcome((await train(tinyTask())).dir)).toEqual(a);
    expect(outcome((await train(tinyTask({ lr: 0.04 }))).dir).bytes).not.toBe(a.bytes);
  });

  test.each([0, 1, 4, 5, 7, 11])("a stop asked for at step %i resumes to the byte", async (at) => {
    const whole = outcome((await train(tinyTask())).dir);
    const dir = temporaryFolder();
    const run = await tinyRun(dir);
    const task = tinyTask();
    task.stops.set(at, () => run.stop.request("SIGINT"));
    await expect(trainStage(run, task)).rejects.toThrow(Interrupted);
    const resumed = tinyTask();
    await train(resumed, dir);
    expect(outcome(dir)).toEqual(whole);
  });

  test("a crash between checkpoints resumes to the byte, metrics included", async () => {
    const whole = outcome((await train(tinyTask())).dir);
    const dir = temporaryFolder();
    for (const at of [2, 9]) {
      const task = tinyTask();
      task.stops.set(at, () => {
        throw new Error("crash");
      });
      await expect(train(task, dir)).rejects.toThrow("crash");
    }
    await train(tinyTask(), dir);
    expect(outcome(dir)).toEqual(whole);
  });

  test("micro-batches and averaging resume to the byte too", async () => {
    const options = { accumulate: 2, ema_decay: 0.5 };
    const whole = outcome((await train(tinyTask(options))).dir);
    const dir = temporaryFolder();
    const run = await tinyRun(dir);
    const task = tinyTask(options);
    task.stops.set(6, () => run.stop.request("SIGTERM"));
    await expect(trainStage(run, task)).rejects.toThrow(Interrupted);
    await train(tinyTask(options), dir);
    expect(outcome(dir)).toEqual(whole);
  });

  test("a poisoned batch ends the run, is named, and leaves the checkpoint alone", async () => {
    const dir = temporaryFolder();
    await expect(train(tinyTask({}, { step: 8 }), dir)).rejects.toThrow(
      /step 8.*first bad tensor is the input "x" \(1 NaN/s,
    );
    expect(outcome(dir).last).toBe("step-00000005.safetensors");
    const events = readFileSync(join(dir, "events.jsonl"), "utf8").trim().split("\n");
    const { bad } = JSON.parse(events[0]!) as { bad: { kind: string; name: string }[] };
    expect(bad.map(({ kind, name }) => `${kind} ${name}`)).toContain("gradient tiny/kernel");
    expect(bad.some(({ kind }) => kind === "variable")).toBe(false);
  });

  test("an overflow inside the model is named by its first metric", async () => {
    await expect(train(tinyTask({}, { step: 3, value: 3e38 }))).rejects.toThrow(
      /first bad tensor is the metric "(loss|mae)"/,
    );
  });

  test.each([1, 2])("the compiled device does the same, %i micro-batches", async (accumulate) => {
    const last = async (type: "cpu" | "reference") => {
      const dir = temporaryFolder();
      const run = await tinyRun(
        dir,
        type === "cpu" ? { type, engine: "auto", threads: 1 } : { type },
      );
      await trainStage(run, tinyTask({ accumulate }));
      return readMetrics(join(dir, "metrics.jsonl"));
    };
    const got = await last("cpu");
    const want = await last("reference"); // and leaves the reference device active
    expect(got).toHaveLength(want.length);
    for (const [i, { stage, split, ...numbers }] of want.entries()) {
      expect(got[i]).toMatchObject({ stage, split });
      for (const [name, value] of Object.entries(numbers)) {
        expect(got[i]![name]).toBeCloseTo(Number(value), 4);
      }
    }
  });

  test("leaves no tensors behind", async () => {
    const tensors = () => tf.memory().numTensors;
    const growth = async (steps: number) => {
      const task = tinyTask({ steps });
      const before = tensors();
      await train(task);
      return tensors() - before;
    };
    expect(await growth(30)).toBe(await growth(3));
  });

  test("no steps: the initial weights are the result", async () => {
    const { dir } = await train(tinyTask({ steps: 0 }));
    expect(outcome(dir).last).toBe("step-00000000.safetensors");
  });
});
