import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseLine } from "../../src/cli/generate.ts";
import { generateTask, type TaskRequest } from "../../src/cli/generate-task.ts";
import { loadConfig } from "../../src/config/resolve.ts";
import { openFrames } from "../../src/data/frames.ts";
import { writeLossless } from "../../src/data/video.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";
import { type OpenedRun, openRun } from "../../src/trainers/open-run.ts";
import { runExperiment } from "../../src/trainers/run.ts";

const file = fileURLToPath(new URL("../trainers/tiny.yaml", import.meta.url));
const output = mkdtempSync(join(tmpdir(), "tessera-generate-"));
const objective =
  "objective={type: multimodal, text_length: 30, audio: {window: 256, codes: 8, fit_clips: 4}, " +
  "tasks: [{task: T2AV}, {task: IP}, {task: FP}, {task: A2V}]}";
let run: OpenedRun;

beforeAll(async () => {
  const overrides = [
    `output=${output}`,
    objective,
    "dataset.audio_rate=4000",
    "trainer.samples.count=0",
    "trainer.tokenizer.steps=2",
    "trainer.transformer.steps=2",
    "evals={}",
  ];
  const { dir } = await runExperiment(
    loadConfig<Experiment>({ file, overrides, schema: experimentSchema, checks }),
    { output: { terminal: false, line: () => undefined } },
  );
  run = await openRun(dir);
}, 60_000);
afterAll(() => run.close());

const request = (changes: Partial<TaskRequest>): TaskRequest => ({
  task: "T2AV",
  chain: [],
  continue: 0,
  condition: [],
  text: [],
  audio: [],
  labels: new Int32Array(4).fill(-1),
  n: 1,
  seed: 3,
  format: "mkv",
  fps: 8,
  out: join(output, "made"),
  ...changes,
});

/** Frames, height and width of a file. */
async function sizeOfFile(path: string): Promise<number[]> {
  const source = await openFrames(path);
  let frames = 0;
  for (const span of source.spans(1)) {
    frames += Number(span.length > 0);
  }
  source.close();
  return [frames, source.height, source.width];
}

describe("tessera generate --task", () => {
  const caption = "a large red circle moves left";

  test("a caption becomes a clip with sound, which is the next task's condition", async () => {
    const out = join(output, "first");
    await generateTask(run, request({ text: [caption], n: 2, out }));
    const files = readdirSync(out).toSorted();
    expect(files).toEqual(["seed3-000-T2AV.mkv", "seed3-001-T2AV.mkv"]);
    const made = join(out, files[0]!);
    expect(await sizeOfFile(made)).toEqual([5, 16, 16]);
    // The clip paints in, and its sound makes a video of its own.
    await generateTask(run, request({ task: "IP", condition: [made], out: join(output, "ip") }));
    await generateTask(run, request({ task: "A2V", audio: [made], out: join(output, "a2v") }));
    expect(existsSync(join(output, "a2v", "seed3-000-A2V.mkv"))).toBe(true);
  });

  test("chains of tasks, and videos as long as asked for", async () => {
    const out = join(output, "long");
    const long = request({ text: [caption], chain: ["FP"], continue: 2, out });
    await generateTask(run, long);
    // One frame of four new latents is given; each continuation adds the rest.
    expect(await sizeOfFile(join(out, "seed3-000-T2AV-FP.mkv"))).toEqual([5 + 2 * 4, 16, 16]);
  });

  test("one clear error for each mistake", async () => {
    const wrong = join(output, "wrong.mkv");
    const data = new Uint8Array(5 * 24 * 16 * 3);
    await writeLossless(wrong, { data, frames: 5, height: 24, width: 16 }, 8);
    const short = join(output, "short.mkv");
    const two = new Uint8Array(2 * 16 * 16 * 3);
    await writeLossless(short, { data: two, frames: 2, height: 16, width: 16 }, 8);
    const fast = join(output, "fast.mkv");
    const five = new Uint8Array(5 * 16 * 16 * 3);
    await writeLossless(fast, { data: five, frames: 5, height: 16, width: 16 }, 25);
    const fails = async (changes: Partial<TaskRequest>, message: string) =>
      expect(generateTask(run, request(changes))).rejects.toThrow(message);
    await fails({ task: "OP" }, "was not trained for the task OP");
    await fails({}, "needs --text");
    await fails({ text: ["a mauve circle"] }, 'no word "mauve"');
    await fails({ text: [caption, " "] }, "--text 2 has no words");
    await fails(
      { task: "IP", condition: [fast] },
      "25 frames a second, the model was trained at 8",
    );
    await fails({ task: "A2V", audio: [short] }, "has no sound that can be read");
    await fails({ task: "IP" }, "needs --condition");
    await fails({ task: "IP", condition: ["none.mkv"] }, "no such file");
    await fails({ task: "IP", condition: [wrong] }, "frames of 16 x 24, the model takes 16 x 16");
    await fails({ task: "IP", condition: [short] }, "2 frames, the task looks at 5");
    await fails({ task: "IP", condition: [short], text: [caption] }, "does not look at --text");
    await fails({ text: [caption], continue: 1 }, "does not start from");
  });
});

describe("the program itself", () => {
  const program = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
  const caption = "a large red circle moves left";
  const call = (args: readonly string[], input = "") =>
    spawnSync(process.execPath, [program, ...args], { encoding: "utf8", input });

  test("--interactive answers lines, says what is wrong with one, and goes on", async () => {
    const wrong = join(output, "tall.mkv");
    const data = new Uint8Array(5 * 24 * 16 * 3);
    await writeLossless(wrong, { data, frames: 5, height: 24, width: 16 }, 8);
    const out = join(output, "lines");
    const { status, stdout, stderr } = call(
      ["generate", run.dir, "--interactive"],
      [
        `--task OP --condition ${wrong}`,
        '--task T2AV --text "a mauve circle"',
        `--task IP --condition ${wrong}`,
        "--colour red",
        '--task T2AV --text "a red',
        `--task T2AV --text "${caption}" --n 1 --seed 3 --format mkv --out ${out}`,
        `--task T2AV --text '${caption}' --n 1 --seed 4 --format mkv --out ${out}`,
        "",
      ].join("\n"),
    );
    expect(status).toBe(0);
    for (const message of [
      "was not trained for the task OP",
      'no word "mauve"',
      "frames of 16 x 24, the model takes 16 x 16",
      "unknown option '--colour'",
      "a quote is not closed",
    ]) {
      expect(stderr).toContain(message);
    }
    expect(stderr.match(/^error: /gm)).toHaveLength(5);
    expect(stdout.trim().split("\n")).toEqual([
      join(out, "seed3-000-T2AV.mkv"),
      join(out, "seed4-000-T2AV.mkv"),
    ]);
    // Lines give the clips that calls of their own give.
    const alone = join(output, "alone");
    await generateTask(run, request({ text: [caption], out: alone }));
    const name = "seed3-000-T2AV.mkv";
    expect(readFileSync(join(out, name))).toEqual(readFileSync(join(alone, name)));
  }, 30_000);

  test("guidance that the training did not prepare is refused before anything runs", () => {
    const { status, stderr } = call([
      "show",
      file,
      "objective.label_dropout=0",
      "objective.sampling.guidance=3",
    ]);
    expect(status).toBe(2);
    expect(stderr).toContain("guidance 3 needs a network that was trained without conditions");
  });

  test("words, quotes and faults of a line", () => {
    const options = parseLine(`--text "a red circle" 'two words' --n 3 --seed 9`);
    expect(options.text).toEqual(["a red circle", "two words"]);
    expect([options.n, options.seed, options.format]).toEqual([3, 9, "mp4"]);
    expect(() => parseLine("--n none")).toThrow("none");
    expect(() => parseLine("more")).toThrow("too many arguments");
  });
});
