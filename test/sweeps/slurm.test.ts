/**
 * @file The Slurm launcher against stand-ins of Slurm's commands, which run array tasks as Slurm does:
 * warn them of their end, requeue what exits with 75. scripts/check-sweeps.ts does the same on a real one.
 */

import { spawnSync } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { batchScript, slurmTime, srunWords } from "../../src/sweeps/slurm/script.ts";
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

test("what became of jobs that were killed with their workers is asked of Slurm", () => {
  const cwd = join(dir, "killed");
  const file = sweepFile(cwd, "seeds: 4");
  expect(tessera(cwd, "sweep", file, "--launcher", "dry-run").status).toBe(0);
  const sweep = join(cwd, "results/sweeps/s");
  // Claims of workers on another machine that have shown no sign of life for an hour.
  const rows = status(cwd).map(({ trial }, task) => {
    const claim = { trial: trial.id, attempt: 1, launcher: "slurm", job: `8_${task}` };
    const path = join(sweep, "claims", `${trial.id}.1.json`);
    writeFileSync(path, JSON.stringify({ ...claim, host: "elsewhere", pid: 1, started: "1" }));
    utimesSync(path, new Date(Date.now() - 3.6e6), new Date(Date.now() - 3.6e6));
    return trial.id;
  });
  expect(status(cwd).map(({ state }) => state)).toEqual(Array(4).fill("stale"));
  const bin = join(dir, "bin-killed");
  mkdirSync(bin);
  const command = (name: string, text: string): void => {
    writeFileSync(join(bin, name), `#!/bin/bash\n${text}\n`);
    chmodSync(join(bin, name), 0o755);
  };
  // Accounts know two of the jobs, the controller one more; the last one's node is gone.
  command(
    "sacct",
    'case "$*" in *8_0) echo OUT_OF_MEMORY;; *8_1) echo "CANCELLED by 0";; *8_2) exit 1;; esac',
  );
  command(
    "scontrol",
    'case "$3" in 8_2) echo "JobId=11 ArrayJobId=8 JobState=TIMEOUT Reason=x";; *) echo "JobState=NODE_FAIL";; esac',
  );
  const PATH = `${bin}:${process.env["PATH"]}`;
  const options = { cwd, encoding: "utf8", env: { ...process.env, NO_COLOR: "1", PATH } } as const;
  const asked = spawnSync(process.execPath, [program, "sweep", "status", "s"], options);
  expect(asked.stdout).toMatch(/out-of-memory .*job 8_0 was ended by Slurm for want of memory/);
  expect(asked.stdout).toMatch(/interrupted .*job 8_1 was cancelled/);
  const states = status(cwd);
  expect(states.map(({ trial }) => trial.id)).toEqual(rows);
  expect(states.map(({ state }) => state)).toEqual([
    "out-of-memory",
    "interrupted",
    "interrupted",
    "stale",
  ]);
  expect(states[2]!.error).toBe("job 8_2 came to its time limit");
});

describe("scripts", () => {
  test("a trial of several processes gives each its rank, as torchrun does", () => {
    const words = srunWords({ cores: 6, gpus: 1, hours: 1, nodes: 2, tasks: 8 });
    expect(words.slice(0, 5)).toEqual([
      "srun",
      "--ntasks=8",
      "--nodes=2",
      "--ntasks-per-node=4",
      "--cpus-per-task=6",
    ]);
    expect(srunWords({ cores: 6, gpus: 1, hours: 1, nodes: 1, tasks: 1 })).toEqual([]);
    const env = {
      PATH: process.env["PATH"],
      SLURM_PROCID: "5",
      SLURM_LOCALID: "1",
      SLURM_NTASKS: "8",
      SLURM_JOB_ID: "20007",
      SLURM_LAUNCH_NODE_IPADDR: "10.0.0.7",
    };
    const print = "echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT";
    const at = words.indexOf("bash");
    const told = (more: object) =>
      spawnSync(words[at]!, [...words.slice(at + 1), "bash", "-c", print], {
        encoding: "utf8",
        env: { ...env, ...more },
      }).stdout.trim();
    expect(told({})).toBe("5 1 8 10.0.0.7 20007");
    expect(told({ MASTER_ADDR: "head", MASTER_PORT: "9" })).toBe("5 1 8 head 9");
  });

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
    expect(script).toMatch(/^# {3}srun --ntasks=8 --nodes=2 .*RANK=\$SLURM_PROCID/m);
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
