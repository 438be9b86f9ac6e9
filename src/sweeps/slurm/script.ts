/**
 * @file The batch scripts of a sweep. A script only starts a worker of Tessera; which trials an array
 * task works on stands in a file that was frozen at submission.
 */

import type { Sweep } from "../schema.ts";

export interface SlurmOptions {
  readonly partition?: string;
  readonly account?: string;
  readonly qos?: string;
  /** Further sbatch options, as "--constraint=h100". */
  readonly extra?: readonly string[];
  /** Array tasks that run at once; no limit when left out. */
  readonly atOnce?: number;
  /** Trials that share one array task and run side by side in it. */
  readonly pack: number;
  /** Shell lines before the worker: modules, environments. */
  readonly setup?: string;
}

export interface ScriptParts {
  readonly name: string;
  readonly resources: Sweep["resources"];
  readonly cwd: string;
  readonly logs: string;
  readonly tasks: number;
  /** The worker's command, shell-quoted. */
  readonly worker: string;
  readonly options: SlurmOptions;
}

/** Seconds before the time limit at which trials are asked to save. */
export const warningSeconds = 120;

/** A word for the shell. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Hours as Slurm's D-HH:MM:SS. */
export function slurmTime(hours: number): string {
  const seconds = Math.max(60, Math.round(hours * 3600));
  const two = (value: number): string => String(value).padStart(2, "0");
  const days = Math.floor(seconds / 86400);
  return `${days}-${two(Math.floor((seconds % 86400) / 3600))}:${two(Math.floor((seconds % 3600) / 60))}:${two(seconds % 60)}`;
}

/**
 * What gives each process of a data-parallel trial its place, under the names that torchrun gives them.
 * The worker, and so srun, runs on the job's first node, which is where rank 0 is. Ports differ by job.
 */
const RANKS =
  'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS MASTER_ADDR=${MASTER_ADDR:-$SLURM_LAUNCH_NODE_IPADDR} MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}; exec "$@"';

/** The words before a trial's command: srun, for trials of several processes. */
export function srunWords({ tasks, nodes, cores }: Sweep["resources"]): string[] {
  return tasks === 1
    ? []
    : [
        "srun",
        `--ntasks=${tasks}`,
        `--nodes=${nodes}`,
        `--ntasks-per-node=${Math.ceil(tasks / nodes)}`,
        `--cpus-per-task=${cores}`,
        // A rank that saves last is not to be killed by the first one that has ended.
        "--kill-on-bad-exit=0",
        "--wait=300",
        "bash",
        "-c",
        RANKS,
        "trial",
      ];
}

/** The text of one array's script. */
export function batchScript(parts: ScriptParts): string {
  const { resources, options, tasks } = parts;
  const { cores, gpus, memory_gb, hours, nodes, tasks: processes, gpu_type } = resources;
  const spread = processes > 1;
  const perNode = Math.ceil(processes / nodes);
  const gpuCount = spread ? perNode * gpus : options.pack * gpus;
  const limit = options.atOnce === undefined ? "" : `%${options.atOnce}`;
  // What a job is warned of comes at most a third of its time before the end.
  const warning = Math.min(warningSeconds, Math.floor((hours * 3600) / 3));
  const lines = [
    "#!/bin/bash",
    `#SBATCH --job-name=${parts.name}`,
    `#SBATCH --array=0-${tasks - 1}${limit}`,
    `#SBATCH --time=${slurmTime(hours)}`,
    `#SBATCH --nodes=${nodes}`,
    ...(spread
      ? [`#SBATCH --ntasks-per-node=${perNode}`, `#SBATCH --cpus-per-task=${cores}`]
      : ["#SBATCH --ntasks=1", `#SBATCH --cpus-per-task=${cores * options.pack}`]),
    ...(gpuCount > 0 ? [`#SBATCH --gres=gpu:${gpu_type ? `${gpu_type}:` : ""}${gpuCount}`] : []),
    ...(memory_gb === undefined
      ? []
      : [`#SBATCH --mem=${Math.ceil(memory_gb * 1024 * (spread ? perNode : options.pack))}M`]),
    ...(options.partition ? [`#SBATCH --partition=${options.partition}`] : []),
    ...(options.account ? [`#SBATCH --account=${options.account}`] : []),
    ...(options.qos ? [`#SBATCH --qos=${options.qos}`] : []),
    ...(options.extra ?? []).map((option) => `#SBATCH ${option}`),
    `#SBATCH --chdir=${parts.cwd}`,
    `#SBATCH --output=${parts.logs}/slurm-%A_%a.log`,
    "#SBATCH --open-mode=append",
    "#SBATCH --requeue",
    `#SBATCH --signal=B:USR2@${warning}`,
    "",
    ...(options.setup ? [options.setup, ""] : []),
    ...(spread
      ? [
          "# The worker starts each trial's processes by",
          `#   ${srunWords(resources).map(quoted).join(" ")} COMMAND`,
        ]
      : []),
    "# Signals of Slurm go to the worker itself: it lets the trials save, and asks to be requeued.",
    `exec ${parts.worker} --task "$SLURM_ARRAY_TASK_ID"`,
    "",
  ];
  return lines.join("\n");
}
