/** @file What a trial's end means, told from its exit code, its signal, its words and the kernel's. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Outcome } from "./journal.ts";

export interface Ending {
  readonly outcome: Outcome;
  readonly error?: string;
  /** The trial saved a checkpoint and asks for another turn (exit code 75). */
  readonly again: boolean;
}

export interface Evidence {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** What its supervisor asked it to stop as. */
  readonly asked: Outcome | undefined;
  /** The run folder has come to its end. */
  readonly finished: boolean;
  /** The error that the run itself wrote into status.json. */
  readonly status: string | undefined;
  /** The end of its log. */
  readonly log: string;
  /** Processes that the kernel killed for want of memory meanwhile. */
  readonly oomKills: number;
  /** The process could not be started. */
  readonly fault?: Error;
}

/** Exit code of a program that wants another turn (EX_TEMPFAIL). */
export const againCode = 75;

/** Node, C++ libraries, the kernel, CUDA and cuDNN, PyTorch, ONNX Runtime, Slurm. */
const noMemory =
  /JavaScript heap out of memory|std::bad_alloc|CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED|Cannot allocate memory|ENOMEM|Array buffer allocation failed|Failed to allocate memory|not enough memory|OutOfMemoryError|\boom[-_ ]kill|out of memory/i;

/** Judge an ended process. */
export function outcomeOf(evidence: Evidence): Ending {
  const { code, signal, asked, finished, log, oomKills, fault } = evidence;
  if (fault) {
    return { outcome: "failed", again: false, error: `could not be started: ${fault.message}` };
  }
  if (code === 0 && finished) {
    return { outcome: "finished", again: false };
  }
  if (code === againCode) {
    return { outcome: asked ?? "interrupted", again: true };
  }
  // Asked to stop, it stopped; how it did so no longer matters.
  if (asked !== undefined) {
    return { outcome: asked, again: false };
  }
  const said = lastWords(log);
  const killed = signal === "SIGKILL" || code === 137;
  if (killed && oomKills > 0) {
    return {
      outcome: "out-of-memory",
      again: false,
      error: "killed by the system for want of memory",
    };
  }
  const words = `${evidence.status ?? ""}\n${log}`;
  if (code !== 0 && (killed || signal === null || signal === "SIGABRT") && noMemory.test(words)) {
    const line = words.split("\n").find((text) => noMemory.test(text));
    return { outcome: "out-of-memory", again: false, error: line?.trim() ?? "out of memory" };
  }
  if (killed) {
    return { outcome: "interrupted", again: false, error: "killed (SIGKILL)" };
  }
  if (code === 130 || code === 143 || signal === "SIGINT" || signal === "SIGTERM") {
    return { outcome: "interrupted", again: false };
  }
  if (code === 0) {
    const error = "it ended without a word and without scores.json";
    return { outcome: "failed", again: false, error };
  }
  const how = signal === null ? `exit code ${code}` : signal;
  return { outcome: "failed", again: false, error: evidence.status ?? said ?? how };
}

/** The error that a log ends with, or its last line. */
function lastWords(log: string): string | undefined {
  const lines = log.split("\n").filter((line) => line.trim() !== "");
  return (lines.findLast((line) => /error/i.test(line)) ?? lines.at(-1))?.trim().slice(0, 500);
}

/**
 * How many processes the kernel has killed for want of memory: in this process's own memory group where
 * there is one (a Slurm job's, a container's), else on the whole machine since it started.
 */
export function readOomCount(): number {
  for (const path of oomFiles()) {
    try {
      const match = /^oom_kill (\d+)$/m.exec(readFileSync(path, "utf8"));
      if (match) {
        return Number(match[1]);
      }
    } catch {
      // not this system, or another version of groups
    }
  }
  return 0;
}

/** Where the kernel counts: groups of version 2, of version 1, the machine. */
function oomFiles(): string[] {
  let groups = "";
  try {
    groups = readFileSync("/proc/self/cgroup", "utf8");
  } catch {
    // not Linux
  }
  const unified = /^0::(.*)$/m.exec(groups)?.[1];
  const memory = /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/m.exec(groups)?.[1];
  return [
    ...(unified === undefined ? [] : [join("/sys/fs/cgroup", unified, "memory.events")]),
    ...(memory === undefined ? [] : [join("/sys/fs/cgroup/memory", memory, "memory.oom_control")]),
    "/sys/fs/cgroup/memory.events",
    "/proc/vmstat",
  ];
}
