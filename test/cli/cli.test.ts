/** @file The command line as a user meets it: the built program in a process of its own. */

import { type SpawnSyncReturns, spawnSync } from "node:child_process";
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
  "evals.frechet=null",
  "evals.probe=null",
];

describe("help and faults", () => {
  it("shows the commands, and help for each with examples", () => {
    const all = tessera("--help");
    expect(all.status).toBe(0);
    for (const command of [
      "run",
      "eval",
      "generate",
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
    expect(page).toContain("psnr:per-frame");
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
