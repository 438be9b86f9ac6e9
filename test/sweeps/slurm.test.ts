/**
 * @file The Slurm launcher against stand-ins of Slurm's commands, which run array tasks as Slurm does:
 * warn them of their end, requeue what exits with 75. scripts/check-sweeps.ts does the same on a real one.
 */

import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { batchScript, slurmTime } from "../../src/sweeps/slurm/script.ts";
import { compare } from "../../src/reports/compare/comparison.ts";
import { findRuns } from "../../src/reports/compare/runs.ts";
import { longRows } from "../../src/reports/compare/tables.ts";
import { account, program, status, sweepFile, temporaryFolder, tessera } from "./helpers.ts";

let dir: string;
beforeAll(() => {
  dir = temporaryFolder();
  mkdirSync(join(dir, "bin"));
  const command = (name: string, text: string): void => {
    writeFileSync(join(dir, "bin", name), `#!/bin/bash\n${text}\n`);
    chmodSync(join(dir, "bin", name), 0o755);
  };
  command("scontrol", 'echo "MaxArraySize            = 3"; echo "RequeueExit             = 75"');
  command("squeue", "true");
  command("scancel", "true");
  // Tasks one after the other; the first of all is warned of its end while it works.
  command(
    "sbatch",
    `echo "$@" >> "${dir}/calls"
script="\${@: -1}"
job=$(( $(wc -l < "${dir}/calls") ))
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
export SLURM_ARRAY_JOB_ID=$job
for i in $(seq 0 "$last"); do
  export SLURM_ARRAY_TASK_ID=$i
  while :; do
    bash "$script" >> "${dir}/log" 2>&1 &
    worker=$!
    if [ ! -e "${dir}/warned" ]; then
      until grep -q started "${dir}/log"; do sleep 0.05; done
      sleep 0.1; touch "${dir}/warned"; kill -USR2 $worker
    fi
    wait $worker; code=$?
    [ $code -eq 75 ] && echo "requeued $job $i" >> "${dir}/requeues" || break
  done
done
echo $job`,
  );
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const onPath = (cwd: string, ...args: string[]) =>
  spawnSync(process.execPath, [program, ...args], {
    cwd,
    encoding: "utf8",
    env: {
      ...process.env,
      NO_COLOR: "1",
      FAKE_STEPS: "40",
      PATH: `${join(dir, "bin")}:${process.env["PATH"]}`,
    },
  });

test("arrays no longer than allowed, a warned job requeued, the same table as on this machine", () => {
  const there = join(dir, "there");
  const file = sweepFile(there, "seeds: 5");
  const result = onPath(there, "sweep", file, "--launcher", "slurm", "--partition", "lab");
  expect({ status: result.status, stderr: result.stderr }).toEqual({ status: 0, stderr: "" });
  expect(result.stdout).toContain("submitted array 1, array 2, array 3");
  expect(readFileSync(join(dir, "requeues"), "utf8")).toBe("requeued 1 0\n");
  const rows = status(there);
  expect(rows.map(({ state, attempts }) => [state, attempts])).toEqual([
    ["finished", 2],
    ["finished", 1],
    ["finished", 1],
    ["finished", 1],
    ["finished", 1],
  ]);
  for (const row of rows) {
    expect(account(there, row)).toEqual({ ends: 1, overlaps: 0 });
  }
  const again = onPath(there, "sweep", "resume", "s", "--launcher", "slurm");
  expect(again.stdout).toContain("nothing to submit");

  const here = join(dir, "here");
  expect(tessera(here, "sweep", sweepFile(here, "seeds: 5")).status).toBe(0);
  const table = (cwd: string) => longRows(compare(findRuns([join(cwd, "results/sweeps/s")])));
  expect(table(there)).toEqual(table(here));
});

test("a dry run writes the scripts, the packed trials and freezes the configs, and starts nothing", () => {
  const cwd = join(dir, "dry");
  const file = sweepFile(
    cwd,
    "seeds: 5\nresources: {gpus: 1, cores: 4, gpu_type: h100, memory_gb: 8}",
  );
  const options =
    "--launcher dry-run --pack 2 --at-once 3 --account x --sbatch=--constraint=fast".split(" ");
  const setup = ["--setup", "module load nodejs"];
  const { stdout, status: code } = tessera(cwd, "sweep", file, ...options, ...setup);
  expect(code).toBe(0);
  for (const line of [
    "#SBATCH --array=0-2%3",
    "#SBATCH --cpus-per-task=8",
    "#SBATCH --gres=gpu:h100:2",
    "#SBATCH --mem=16384M",
    "#SBATCH --account=x",
    "#SBATCH --constraint=fast",
    "#SBATCH --signal=B:USR2@120",
    "module load nodejs",
  ]) {
    expect(stdout).toContain(`${line}\n`);
  }
  expect(status(cwd).map(({ state }) => state)).toEqual(Array(5).fill("pending"));
  expect(readdirSync(join(cwd, "results/sweeps/s/trials"))).toHaveLength(5);
});

describe("scripts", () => {
  test("a trial of several processes asks for nodes and tasks", () => {
    const script = batchScript({
      name: "s",
      resources: { cores: 6, gpus: 1, hours: 30.5, nodes: 2, tasks: 8 },
      cwd: "/work",
      logs: "/work/logs",
      tasks: 1,
      worker: "node main.js",
      options: { pack: 1 },
    });
    expect(script).toContain(
      "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=6\n#SBATCH --gres=gpu:4\n",
    );
    expect(script).toContain("#SBATCH --time=1-06:30:00\n");
  });

  test("times are what Slurm reads", () => {
    expect([0.001, 1, 24, 49.99].map(slurmTime)).toEqual([
      "0-00:01:00",
      "0-01:00:00",
      "1-00:00:00",
      "2-01:59:24",
    ]);
  });
});
