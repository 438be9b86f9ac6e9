import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { Status } from "../../src/trainers/context.ts";
import { temporaryFolder } from "./support.ts";

const child = fileURLToPath(new URL("child.ts", import.meta.url));
const config = fileURLToPath(new URL("tiny.yaml", import.meta.url));

interface Outcome {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly text: string;
}

function start(output: string, overrides: readonly string[] = []) {
  const process_ = spawn(
    process.execPath,
    ["--import", "tsx", child, config, `output=${output}`, ...overrides],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  let text = "";
  process_.stdout.on("data", (data: Buffer) => (text += data.toString()));
  process_.stderr.on("data", (data: Buffer) => (text += data.toString()));
  const ended = new Promise<Outcome>((resolve) =>
    process_.once("close", (code, signal) => resolve({ code, signal, text })),
  );
  return { process: process_ as ChildProcess, ended };
}

/** The only run folder of an output folder. */
function folderOf(output: string): string | undefined {
  const root = join(output, "tiny");
  return existsSync(root) ? join(root, readdirSync(root)[0] ?? "") : undefined;
}

function statusOf(output: string): Status | undefined {
  const path = join(folderOf(output) ?? output, "status.json");
  return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Status) : undefined;
}

/** Wait until a run is in a stage (and at a step), then some more. */
async function until(output: string, running: ChildProcess, stage: string, step: number) {
  while (running.exitCode === null && running.signalCode === null) {
    const status = statusOf(output);
    if (status?.state === "running" && status.stage === stage && (status.step ?? step) >= step) {
      return true;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return false;
}

/** What must be equal to the byte, however often a run was interrupted. */
function contents(output: string) {
  const dir = folderOf(output)!;
  const read = (name: string) => readFileSync(join(dir, name)).toString("base64");
  return {
    tokenizer: read("checkpoints/tokenizer/step-00000016.safetensors"),
    transformer: read("checkpoints/transformer/step-00000016.safetensors"),
    train: read("tokens/train.arrow"),
    validation: read("tokens/validation.arrow"),
    scores: readFileSync(join(dir, "scores.json"), "utf8"),
    metrics: readFileSync(join(dir, "metrics.jsonl"), "utf8"),
  };
}

describe("a whole run", { timeout: 300_000 }, () => {
  const whole = temporaryFolder();

  test("goes from config to scores, and is skipped when finished", async () => {
    const { process: running, ended } = start(whole);
    expect(await until(whole, running, "tokenizer", 0)).toBe(true);
    const second = await start(whole).ended; // two processes do not share a folder
    expect(second.text).toMatch(/is in use by process|skipped/);
    const { code, text } = await ended;
    expect(text).toContain('"state":"finished"');
    expect(code).toBe(0);
    for (const file of [
      "config.yaml",
      "provenance.json",
      "metrics.parquet",
      "samples/generated.png",
    ]) {
      expect(existsSync(join(folderOf(whole)!, file))).toBe(true);
    }
    const again = await start(whole).ended;
    expect(again.text).toMatch(/skipped: .* is finished/);
    expect(again.code).toBe(0);
  });

  test("killed at many moments in each stage, it ends with the same bytes", async () => {
    const output = temporaryFolder();
    const kills = [
      ["tokenizer", 3],
      ["tokenizer", 15],
      ["tokens", 0],
      ["transformer", 8],
      ["evaluation", 0],
    ] as const;
    let killed = 0;
    for (const [stage, step] of kills) {
      const { process: running, ended } = start(output);
      if (await until(output, running, stage, step)) {
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 150));
        running.kill("SIGKILL");
      }
      killed += (await ended).signal === "SIGKILL" ? 1 : 0;
    }
    expect(killed).toBeGreaterThanOrEqual(3); // a fast machine may outrun a late one
    expect(await start(output).ended).toMatchObject({ code: 0 });
    expect(contents(output)).toEqual(contents(whole));
  });

  test("SIGTERM: a checkpoint, exit code 143, and the same bytes in the end", async () => {
    const output = temporaryFolder();
    const { process: running, ended } = start(output);
    expect(await until(output, running, "transformer", 2)).toBe(true);
    running.kill("SIGTERM");
    expect(await ended).toMatchObject({ code: 143 });
    expect(statusOf(output)?.state).toBe("interrupted");
    expect(await start(output).ended).toMatchObject({ code: 0 });
    expect(contents(output)).toEqual(contents(whole));
  });
});
