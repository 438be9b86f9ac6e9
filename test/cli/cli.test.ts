/** @file The command line as a user meets it: the built program in a process of its own. */

import { type SpawnSyncReturns, spawn, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeLossless } from "../../src/data/video.ts";

const root = new URL("../../", import.meta.url).pathname;
const program = join(root, "dist/cli/main.js");
const quickstart = join(root, "configs/experiments/quickstart.yaml");
let dir: string;

beforeAll(() => {
  if (!existsSync(program)) {
    throw new Error("dist/ is missing: `npm test` builds it first, or run `npm run build`");
  }
  dir = mkdtempSync(join(tmpdir(), "tessera-cli-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function tessera(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [program, ...args], {
    cwd: dir,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
  });
}

/** A run of seconds: a tiny world, tokenizer and transformer. */
const tiny = [
  "dataset.frames=5",
  "dataset.height=16",
  "dataset.width=16",
  "dataset.size=48",
  "dataset.validation_size=24",
  "tokenizer.base_channels=16",
  "tokenizer.quantizer.size=32",
  "model.width=32",
  "model.depth=1",
  "trainer.tokenizer.steps=6",
  "trainer.tokenizer.warmup=2",
  "trainer.tokenizer.validate_batches=2",
  "trainer.tokens.train_clips=48",
  "trainer.transformer.steps=4",
  "trainer.transformer.warmup=1",
  "trainer.transformer.validate_batches=2",
  "objective.sampling.steps=2",
  "evals.frechet.clips=12",
  "evals.compression.clips=4",
  "evals.compression.codecs=[x264, vp9]",
];

describe("help and faults", () => {
  it("shows the commands, and help for each with examples", () => {
    const all = tessera("--help");
    expect(all.status).toBe(0);
    for (const command of [
      "run",
      "eval",
      "generate",
      "compress",
      "report",
      "show",
      "diff",
      "schema",
      "doctor",
    ]) {
      expect(all.stdout).toContain(`\n  ${command} `);
      const one = tessera(command, "--help");
      expect({ command, status: one.status }).toEqual({ command, status: 0 });
      expect(one.stdout).toMatch(/Example/);
    }
  });

  it("answers a misspelt command or option with the nearest one and exit code 2", () => {
    const command = tessera("runn", quickstart);
    expect(command.status).toBe(2);
    expect(command.stderr).toContain("Did you mean run?");
    const option = tessera("show", quickstart, "--jsn");
    expect(option.status).toBe(2);
    expect(option.stderr).toContain("--json");
  });

  it("names a file that is not there, without a stack", () => {
    const { status, stderr } = tessera("run", "nowhere.yaml");
    expect(status).toBe(2);
    expect(stderr).toContain("nowhere.yaml");
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  it("prints five errors with their places for five mistakes and touches no results", () => {
    const file = join(dir, "five.yaml");
    const text = `extends: ${quickstart}
seed: minus one
datset: "@moving-shapes"
tokenizer:
  patch_size: 3.5
model:
  widht: 64
trainer:
  tokenizer:
    lr: -1
`;
    writeFileSync(file, text);
    const { status, stderr } = tessera("run", file);
    expect(status).toBe(2);
    const places = [...stderr.matchAll(/five\.yaml:(\d+):(\d+)/g)].map((m) => `${m[1]}:${m[2]}`);
    expect(places).toEqual(["2:7", "3:1", "5:15", "7:3", "10:9"]);
    expect(stderr).toContain("dataset"); // did you mean
    expect(stderr).toContain("width");
    expect(existsSync(join(dir, "results"))).toBe(false);
  });
});

describe("configs", () => {
  it("shows the resolved config with origins, and as JSON", () => {
    const text = tessera("show", quickstart, "trainer.tokenizer.lr=1e-3");
    expect(text.status).toBe(0);
    expect(text.stdout).toMatch(/lr: 0\.001 .*override/);
    expect(text.stdout).toMatch(/frames: 17 .*moving-shapes\.yaml:\d+:\d+/);
    const json = JSON.parse(tessera("show", quickstart, "--json").stdout) as { config?: unknown };
    expect(JSON.stringify(json)).toContain("moving-shapes");
  });

  it("tells what differs between two configs", () => {
    const other = join(dir, "other.yaml");
    writeFileSync(other, `extends: ${quickstart}\nseed: 3\n`);
    const { status, stdout } = tessera("diff", quickstart, other);
    expect(status).toBe(0);
    expect(stdout).toMatch(/seed/);
    expect(stdout).not.toMatch(/height/);
  });

  it("writes schemas for editors", () => {
    const out = join(dir, "schema");
    expect(tessera("schema", "--out", out).status).toBe(0);
    const files = readdirSync(out);
    expect(files).toContain("experiments.json");
    for (const file of files) {
      JSON.parse(readFileSync(join(out, file), "utf8"));
    }
  });

  it("says what this machine can do", () => {
    const { status, stdout } = tessera("doctor", "--json");
    expect(status).toBe(0);
    expect(JSON.stringify(JSON.parse(stdout))).toContain("moving-shapes-v1");
  });
});

describe("a run", () => {
  const run = (...overrides: string[]) =>
    tessera("run", quickstart, "output=out", ...tiny, ...overrides);
  const folder = () => {
    const [name] = readdirSync(join(dir, "out/quickstart"));
    return join(dir, "out/quickstart", name!);
  };

  it("trains, evaluates, leaves a page, and is skipped the second time", () => {
    const first = run();
    expect(first.stderr + first.stdout).toContain("report.html");
    expect(first.status).toBe(0);
    const page = readFileSync(join(folder(), "report.html"), "utf8");
    // Reconstruction, codebook, rate and its chart, Fréchet stand-in, recognition.
    for (const protocol of ["psnr:per-frame", "codebook:dataset", "rate:nominal", "bitstream:prior", "frechet:moving-shapes-v1", "probe:linear-codes"]) {
      expect(page).toContain(protocol);
    } // biome-ignore format: one list
    expect(page).toMatch(/<svg[\s\S]*(x264|vp9)/);
    expect(page).not.toMatch(/(src|href)="https?:/); // self-contained
    expect(page).toMatch(/data:(video\/mp4|image\/gif);base64,/); // clips that play
    const again = run();
    expect(again.status).toBe(0);
    expect(again.stdout + again.stderr).toMatch(/skipped: .* is finished/);
  });

  it("has its scores computed again, equal", () => {
    const { status, stdout } = tessera("eval", folder(), "--suite", "full");
    expect(status).toBe(0);
    expect(stdout).toMatch(/equal/i);
    for (const suite of ["reconstruction", "codebook", "rate", "compression", "frechet", "probe"]) {
      expect(stdout).toMatch(new RegExp(`\\b${suite}/`));
    }
  });

  it("has the same scores from several processes, and goes on where it was killed", async () => {
    const scores = (out: string) => readFileSync(join(dir, out, "scores.json"), "utf8");
    const whole = tessera("eval", folder(), "--out", "scores-one");
    expect(whole.status).toBe(0);
    const several = tessera("eval", folder(), "--out", "several", "--processes", "2");
    expect(several.status).toBe(0);
    expect(scores("several")).toBe(scores("scores-one"));
    expect(existsSync(join(dir, "several", "parts"))).toBe(false);

    const partial = join(dir, "killed", "scores.partial.json");
    const args = [program, "eval", folder(), "--out", "killed"];
    const child = spawn(process.execPath, args, { cwd: dir, stdio: "ignore" });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    while (!existsSync(partial)) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    child.kill("SIGKILL");
    await ended;
    const kept = Object.keys(JSON.parse(readFileSync(partial, "utf8")) as object);
    const rest = tessera("eval", folder(), "--out", "killed", "--processes", "2");
    expect(rest.status).toBe(0);
    expect(kept.length).toBeGreaterThan(0);
    expect(scores("killed")).toBe(scores("scores-one"));
  });

  it("generates clips of a class, and refuses an unknown one", () => {
    const out = join(dir, "clips");
    expect(
      tessera(
        "generate",
        folder(),
        "--label",
        "bounce",
        "--n",
        "2",
        "--format",
        "gif",
        "--out",
        out,
      ).status,
    ).toBe(0);
    expect(readdirSync(out).some((file) => file.endsWith(".gif"))).toBe(true);
    const unknown = tessera("generate", folder(), "--label", "bonce");
    expect(unknown.status).toBe(2);
    expect(unknown.stderr).toContain("bounce");
  });

  it("codes a video, gives it back, and tells what a damaged file or another run is", async () => {
    const [height, width] = [20, 28];
    const data = Uint8Array.from({ length: 7 * height * width * 3 }, (_, i) => (i * 5) % 256);
    const video = join(dir, "clip.mkv");
    await writeLossless(video, { data, frames: 7, height, width }, 12.5);
    const coded = join(dir, "clip.tsrv");
    const made = tessera("compress", folder(), video, "--out", coded);
    expect(made.stderr + made.stdout).toContain("verified");
    expect(made.status).toBe(0);
    expect(made.stdout).toMatch(/7 frames of 20x28/);
    for (const code of ["uniform", "static", "adaptive", "prior"]) {
      expect(made.stdout).toContain(code);
    }
    const back = tessera("decompress", folder(), coded, "--out", join(dir, "back.y4m"));
    expect(back.stderr).not.toContain("rror");
    expect(back.status).toBe(0);
    expect(readFileSync(join(dir, "back.y4m")).toString("latin1")).toMatch(/^YUV4MPEG2 W28 H20/);
    const bytes = readFileSync(coded);
    bytes[20]! ^= 1;
    writeFileSync(join(dir, "damaged.tsrv"), bytes);
    const damaged = tessera("decompress", folder(), join(dir, "damaged.tsrv"));
    expect(damaged.status).toBe(2);
    expect(damaged.stderr).toContain("damaged");
    const noVideo = tessera("compress", folder(), join(folder(), "config.json"));
    expect(noVideo.status).toBe(2);
    expect(noVideo.stderr).toContain("not a media file");
    expect(tessera("decompress", folder(), coded, "--out", join(dir, "x.xyz")).status).toBe(2);
  });

  it("keeps its tokens: one process, two, and the tasks of a Slurm array make the same store", () => {
    const make = (out: string, environment: NodeJS.ProcessEnv = {}, ...options: string[]) => {
      const args = ["data", "tokenize", folder(), "--out", out, "--shard-clips", "16", ...options];
      const env = { ...process.env, ...environment, NO_COLOR: "1" };
      const made = spawnSync(process.execPath, [program, ...args], { cwd: dir, encoding: "utf8", env }); // biome-ignore format: one call
      expect(made.stderr).not.toContain("rror");
      expect(made.status).toBe(0);
      return made.stdout;
    };
    const files = (store: string): string[][] =>
      readdirSync(join(dir, store), { recursive: true, encoding: "utf8" })
        .filter((name) => /\.\w+$/.test(name))
        .sort()
        .map((name) => [name, readFileSync(join(dir, store, name)).toString("base64")]);
    expect(make("one")).toContain("one is complete");
    expect(files("one").length).toBe(2 + 2 * (3 + 2));
    make("two", {}, "--processes", "2");
    expect(files("two")).toEqual(files("one"));
    const task = (id: string) => ({ SLURM_ARRAY_TASK_ID: id, SLURM_ARRAY_TASK_MIN: "4", SLURM_ARRAY_TASK_COUNT: "2" }); // biome-ignore format: one value
    expect(make("array", task("5"))).toContain("this part of array is complete");
    expect(files("array")).not.toEqual(files("one"));
    expect(make("array", task("4"))).toContain("array is complete");
    expect(files("array")).toEqual(files("one"));
  });

  it("puts runs into a rate-distortion chart", () => {
    const page = join(dir, "rates.html");
    const { status, stdout } = tessera("rd", folder(), folder(), "--out", page);
    expect(status).toBe(0);
    expect(stdout).toMatch(/uniform +x264 +– /); // one point makes no curve, and it says so
    expect(stdout).toContain("needs 2");
    expect(readFileSync(page, "utf8")).toContain("<svg");
    expect(tessera("rd", join(dir, "schema")).status).toBe(2);
  });

  it("refuses a folder that is no run", () => {
    const empty = join(dir, "empty");
    mkdirSync(empty);
    for (const command of ["eval", "generate", "report"]) {
      const { status, stderr } = tessera(command, empty);
      expect({ command, status }).toEqual({ command, status: 2 });
      expect(stderr).toContain("empty");
    }
    const broken = join(dir, "broken");
    cpSync(folder(), broken, { recursive: true });
    writeFileSync(join(broken, "config.json"), "{");
    expect(tessera("eval", broken).status).toBe(2);
  });
});
