/**
 * Whether an interrupted and resumed run ends with the bytes of an undisturbed one, by the command line itself:
 *
 *   node scripts/resume-check.mjs [OVERRIDE ...]      e.g. device.type=cuda device.deterministic=true
 *
 * The run is killed (SIGKILL) once in each stage. Needs `dist` (npm run build). Exit code 1: they differ.
 */

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(fileURLToPath(new URL("..", import.meta.url)));
const work = mkdtempSync(join(tmpdir(), "tessera-resume-"));
const small = [
  "dataset.size=64",
  "dataset.validation_size=32",
  ...["tokenizer", "transformer"].flatMap((stage) => [
    `trainer.${stage}.steps=40`,
    `trainer.${stage}.checkpoint_every=10`,
    `trainer.${stage}.validate_every=40`,
    `trainer.${stage}.log_every=1`,
  ]),
  "evals={}",
];

function start(name) {
  const overrides = [...small, ...process.argv.slice(2), `output=${join(work, name)}`];
  return spawn(
    process.execPath,
    [
      join(root, "dist/cli/main.js"),
      "run",
      join(root, "configs/experiments/quickstart.yaml"),
      ...overrides,
    ],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
}

const ended = (child) => new Promise((done) => child.once("exit", (code) => done(code)));

function folderOf(name) {
  const experiments = join(work, name, "quickstart");
  const [run] = existsSync(experiments)
    ? readdirSync(experiments).filter((each) => each.includes("-s"))
    : [];
  return run && join(experiments, run);
}

/** Run until a stage has logged a step, then kill. */
async function killIn(name, stage, step) {
  const child = start(name);
  let over = false;
  const end = ended(child).then(() => (over = true));
  while (!over) {
    const folder = folderOf(name);
    const file = folder && join(folder, "metrics.jsonl");
    const text = file && existsSync(file) ? readFileSync(file, "utf8") : "";
    const lines = text
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line));
    if (lines.some((line) => line.stage === stage && line.step >= step)) {
      child.kill("SIGKILL");
      break;
    }
    await new Promise((next) => setTimeout(next, 20));
  }
  await end;
  process.stdout.write(`killed in the ${stage} stage\n`);
}

function digest(name) {
  const folder = folderOf(name);
  const files = ["tokenizer", "transformer"].flatMap((stage) => {
    const dir = join(folder, "checkpoints", stage);
    const last = readdirSync(dir)
      .filter((each) => each.endsWith(".safetensors"))
      .sort()
      .at(-1);
    return [join(dir, last)];
  });
  return [...files, join(folder, "metrics.jsonl")].map((file) => [
    file.slice(folder.length + 1),
    createHash("sha256").update(readFileSync(file)).digest("hex").slice(0, 16),
  ]);
}

try {
  const codes = [await ended(start("undisturbed"))];
  await killIn("disturbed", "tokenizer", 25);
  await killIn("disturbed", "transformer", 15);
  codes.push(await ended(start("disturbed")));
  const [a, b] = [digest("undisturbed"), digest("disturbed")];
  let equal = codes.every((code) => code === 0);
  for (const [i, [file, hash]] of a.entries()) {
    const same = hash === b[i][1];
    equal &&= same;
    process.stdout.write(`${same ? "equal" : "DIFFERS"} ${file}: ${hash} ${b[i][1]}\n`);
  }
  process.exitCode = equal ? 0 : 1;
} finally {
  rmSync(work, { recursive: true, force: true });
}
