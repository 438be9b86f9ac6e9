import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { ConfigErrors } from "../../src/config/problems.ts";
import { loadConfig } from "../../src/config/resolve.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";
import { runFolder } from "../../src/trainers/run.ts";

const configs = fileURLToPath(new URL("../../configs", import.meta.url));

function load(...overrides: string[]) {
  return loadConfig<Experiment>({
    file: `${configs}/experiments/quickstart.yaml`,
    overrides,
    schema: experimentSchema,
    checks,
  });
}

function problemsOf(...overrides: string[]): string[] {
  try {
    load(...overrides);
  } catch (error) {
    if (error instanceof ConfigErrors) {
      return error.problems.map(({ path, message }) => `${path}: ${message}`);
    }
    throw error;
  }
  return [];
}

describe("experiment", () => {
  test("the quick start is a valid experiment with all stages", () => {
    const { config, hash } = load();
    expect(config.objective?.type).toBe("masked");
    expect(Object.keys(config.evals).length).toBeGreaterThanOrEqual(4);
    expect(runFolder(load())).toBe(`results/quickstart/${hash.slice(0, 12)}-s0`);
  });

  test.each(readdirSync(`${configs}/trainers`))("trainer preset %s is valid", (file) => {
    expect(problemsOf(`trainer=@${file.replace(".yaml", "")}`)).toEqual([]);
  });

  test("threads, output and how often to save change no hash; the learning rate does", () => {
    const { hash } = load();
    const same = load("device.threads=1", "output=/tmp/x", "trainer.tokenizer.checkpoint_every=7");
    expect(same.hash).toBe(hash);
    expect(load("seed=5").hash).toBe(hash);
    expect(load("trainer.tokenizer.lr=0.123").hash).not.toBe(hash);
  });

  test("evaluations of tasks and of sound are checked before anything is trained", () => {
    const of = (file: string, ...overrides: string[]) => {
      try {
        loadConfig({
          file: `${configs}/experiments/${file}`,
          overrides,
          schema: experimentSchema,
          checks,
        });
      } catch (error) {
        return (error as ConfigErrors).problems.map(({ path, message }) => `${path}: ${message}`);
      }
      return [];
    };
    expect(of("videopoet-tiny.yaml", "evals.factors.chains=[[T2AV, IP, OP]]")).toEqual([]);
    expect(of("videopoet-tiny.yaml", "evals.factors.chains=[[T2AV, V2A]]")).toEqual([
      "evals.factors.chains: V2A makes no video to go on with",
    ]);
    expect(of("videopoet-tiny.yaml", "dataset.audio_rate=0").join()).toContain("tasks with sound");
    const guided = "+evals.g={type: super-resolution, sampling: {low_guidance: 2}}";
    expect(of("super-resolution-small.yaml", guided)).toEqual([]);
    expect(of("super-resolution-small.yaml", guided, "objective.low_dropout=0").join()).toContain(
      "evals.g.sampling: guidance 2 by the small clip",
    );
  });

  test("a tokenizer alone is an experiment too", () => {
    expect(problemsOf("~model", "~objective")).toEqual([]);
  });

  test.each([
    [["model.heads=5"], "model.heads"],
    [["dataset.frames=8"], "tokenizer"],
    [["trainer.tokenizer.accumulate=3"], "trainer.tokenizer.accumulate"],
    [["~objective"], "model"],
    [["~model"], "objective"],
    [["name=../escape"], "name"],
    [["evals.frechet.sampling={stepz: 1}"], "evals.frechet.sampling.stepz"],
    [["+evals.f={type: factors, tasks: [FP]}"], "evals.f.tasks"],
    [["+evals.f={type: factors, chains: [[FP, FP]]}"], "evals.f.chains"],
    [["+evals.e={type: efficiency, task: FP}"], "evals.e.task"],
    [["+evals.s={type: super-resolution}"], "evals.s"],
    [["dataset={type: video-folder, path: x, frames: 17}", "+evals.f={type: factors}"], "evals.f"],
    [["evals.frechet.sampling={steps: 0}"], "evals.frechet.sampling"],
    [["evals.frechet.sampling={guidance: 2}", "objective.label_dropout=0"], "evals.frechet"],
  ])("%j is a mistake at %s", (overrides, path) => {
    const problems = problemsOf(...overrides);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(path);
  });
});
