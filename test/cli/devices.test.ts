/** @file `tessera run --devices`: ranks that train together, one that dies, and going on afterwards. */

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { isBuilt } from "../../src/runtime/torch/native.ts";

const output = mkdtempSync(join(tmpdir(), "tessera-devices-"));
afterAll(() => rmSync(output, { recursive: true, force: true }));

if (!isBuilt()) {
  process.stderr.write("ranks are not tested: the addon for PyTorch is not built\n");
}

const STEPS = 90; // so many that the first ranks are still at work when one of them is killed

function start(...more: readonly string[]) {
  const child = spawn(
    process.execPath,
    `--import tsx src/cli/main.ts run configs/experiments/tokenizer.yaml output=${output} evals={}
      dataset.size=64 dataset.validation_size=16 trainer.samples.count=0
      trainer.tokenizer.steps=${STEPS} trainer.tokenizer.checkpoint_every=10
      trainer.tokenizer.validate_every=${STEPS} trainer.tokenizer.log_every=1`
      .split(/\s+/)
      .concat("device={type: torch-cpu, threads: 1}", more),
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  let errors = "";
  child.stderr.on("data", (chunk) => (errors += String(chunk)));
  const ended = new Promise<{ code: number | null; errors: string }>((resolve) => {
    child.once("close", (code) => resolve({ code, errors }));
  });
  return { child, ended };
}

const folder = (): string | undefined => {
  const runs = join(output, "tokenizer");
  const run = existsSync(runs) ? readdirSync(runs)[0] : undefined;
  return run && join(runs, run);
};

/** Steps in metrics.jsonl. */
function steps(): number[] {
  const file = join(folder() ?? "", "metrics.jsonl");
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as { split: string; step: number })
    .filter(({ split }) => split === "train")
    .map(({ step }) => step);
}

const processIds = (parent: number): number[] =>
  readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").trim().split(" ").map(Number);

test.skipIf(!isBuilt() || process.platform !== "linux")(
  "a rank that dies ends the training with a clear error, and the same command goes on",
  async () => {
    const first = start("--devices", "2");
    while (!steps().some((step) => step >= 12)) {
      await new Promise((next) => setTimeout(next, 50));
      expect(first.child.exitCode, "the ranks ended early").toBeNull();
    }
    const rank1 = processIds(first.child.pid!).find((pid) =>
      readFileSync(`/proc/${pid}/environ`, "utf8").includes("\0RANK=1\0"),
    )!;
    process.kill(rank1, "SIGKILL");
    const { code, errors } = await first.ended;
    expect(errors).toMatch(/rank 1 of the data-parallel training has died/);
    expect(errors).toMatch(/rank 1 was ended by SIGKILL/);
    expect(code).toBe(2);
    expect(readdirSync(join(folder()!, "checkpoints", "tokenizer")).length).toBeGreaterThan(0);

    const second = await start("--devices", "2").ended;
    expect(second.errors).toMatch(/going on with/);
    expect(second.code).toBe(0);
    expect(steps()).toEqual(Array.from({ length: STEPS }, (_, i) => i + 1));
  },
);

test("devices that cannot train together are refused", async () => {
  const { code, errors } = await start("device={type: cpu}", "--devices", "2").ended;
  expect(errors).toMatch(/the device cpu cannot train with 2 processes/);
  expect(code).toBe(2);
});
