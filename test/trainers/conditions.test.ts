import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/resolve.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";
import { runExperiment } from "../../src/trainers/run.ts";
import { StopRequest } from "../../src/trainers/signals.ts";

const file = fileURLToPath(new URL("tiny.yaml", import.meta.url));
const suite = "evals={frechet: {type: frechet, clips: 8, kernel: false, floor: false}}";
const load = (output: string, ...overrides: string[]) =>
  loadConfig<Experiment>({
    file,
    overrides: [`output=${output}`, "trainer.samples.count=3", suite, ...overrides],
    schema: experimentSchema,
    checks,
  });

/** A stop that comes at the n-th safe point. */
class StopAt extends StopRequest {
  constructor(private left: number) {
    super();
  }
  override check(): void {
    if (this.left-- === 0) {
      this.request("SIGTERM");
    }
    super.check();
  }
}

const quiet = { terminal: false, line: () => undefined };
const tasks = "objective.tasks=[{task: FP}, {task: IPC, weight: 2}, {task: CFP}, {task: CG}]";

/** Every file whose bytes must not depend on interruptions. */
function contents(dir: string): { [name: string]: string } {
  const read = (name: string) => readFileSync(join(dir, name)).toString("base64");
  const names = [
    ...readdirSync(join(dir, "tokens")).map((name) => `tokens/${name}`),
    "checkpoints/transformer/step-00000016.safetensors",
    "samples/generated.png",
    "metrics.jsonl",
  ];
  return Object.fromEntries(names.map((name) => [name, read(name)]));
}

const multimodal =
  "objective={type: multimodal, text_length: 30, audio: {window: 256, codes: 8, fit_clips: 4}, " +
  "tasks: [{task: T2AV}, {task: IP}, {task: ST}, {task: V2A}]}";

const cases = [
  ["COMMIT", [tasks, "objective.conditioning=commit"], ["FP", "IPC"], ["FP", "IPC", "CFP", "CG"]],
  [
    "multi-modal",
    [multimodal, "dataset.audio_rate=4000"],
    ["IPC", "audio", "flow"],
    ["T2AV", "IP", "ST"],
  ],
] as const;

test("a suite with `sampling` judges the same weights under other sampling", async () => {
  const dir = mkdtempSync(join(tmpdir(), "tessera-sampling-"));
  const like = "type: frechet, clips: 8, kernel: false, floor: false";
  const suites = `evals={plain: {${like}}, same: {${like}, sampling: {steps: 2}}, other: {${like}, sampling: {steps: 1, temperature: 3}}}`;
  const { scores } = await runExperiment(
    load(dir, tasks, "objective.conditioning=commit", "objective.sampling.steps=2", suites),
    { output: quiet },
  );
  const value = (name: string) => scores.find((score) => score.name === name)!.value;
  for (const task of ["FP", "IPC", "CFP", "CG"]) {
    expect(value(`same/generation/${task}`)).toBe(value(`plain/generation/${task}`));
    expect(value(`other/generation/${task}`)).not.toBe(value(`plain/generation/${task}`));
  }
  const four = ["FP", "IPC", "CFP", "CG"].map((task) => value(`plain/generation/${task}`));
  expect(value("plain/generation_average")).toBeCloseTo(
    four.reduce((sum, one) => sum + one, 0) / 4,
    10,
  );
});

test("chains of tasks are judged after every task, on the clips of the one before", async () => {
  const dir = mkdtempSync(join(tmpdir(), "tessera-chains-"));
  const suites =
    "evals={factors: {type: factors, clips: 8, train_clips: 60, reader: real, tasks: [IP], chains: [[T2AV, IP, ST]]}}";
  const { scores } = await runExperiment(
    load(dir, multimodal, "dataset.audio_rate=4000", "dataset.size=64", suites),
    { output: quiet },
  );
  const names = scores.map(({ name }) => name).filter((name) => name.includes("chain"));
  expect(names).toEqual(
    ["T2AV", "T2AV+IP", "T2AV+IP+ST"].flatMap((path) =>
      ["motion", "shape", "colour"].map((factor) => `factors/chain/${path}/${factor}`),
    ),
  );
});

describe("a run with conditional tasks", () => {
  test.each(cases)(
    "%s: interrupted at many safe points, it ends with the same bytes",
    { timeout: 60_000 },
    async (_, overrides, caches, judged) => {
      const folder = () => mkdtempSync(join(tmpdir(), "tessera-tasks-"));
      const whole = await runExperiment(load(folder(), ...overrides), { output: quiet });
      expect(whole.state).toBe("finished");
      // Distances of each task that makes video.
      const scores = whole.scores.map(({ name }) => name);
      expect(scores).toEqual(
        expect.arrayContaining(judged.map((task) => `frechet/generation/${task}`)),
      );
      const files = ["train", "validation"].flatMap((split) =>
        [...caches.map((name) => `.${name}`), ""].map((name) => `${split}${name}.arrow`),
      );
      expect(readdirSync(join(whole.dir, "tokens")).toSorted()).toEqual(files.toSorted());
      const resolved = load(folder(), ...overrides);
      let stops = 0;
      let result = whole;
      do {
        const stop = new StopAt(25 + 22 * stops);
        result = await runExperiment(resolved, { output: quiet, stop });
        stops++;
      } while (result.state !== "finished");
      expect(contents(result.dir)).toEqual(contents(whole.dir));
      expect(stops).toBeGreaterThan(1);
    },
  );

  test("mistakes of a mixture are reported with its path", () => {
    const of = (...overrides: string[]) => {
      try {
        load("none", ...overrides);
        return "";
      } catch (error) {
        return (error as Error).message;
      }
    };
    expect(of("objective.tasks=[{task: FP}, {task: FP}]")).toContain("stands twice");
    expect(of(tasks, "objective.condition_frames=5")).toContain("nothing to predict");
    expect(of("objective.label_dropout=0", "objective.sampling.guidance=2")).toContain(
      "guidance 2",
    );
    expect(of("objective.tasks=[{task: FX}]")).toContain("objective.tasks");
  });
});
