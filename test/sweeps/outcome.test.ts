/** @file What a trial's end means, from exit codes, signals, words and the kernel's count. */

import { describe, expect, test } from "vitest";
import { type Evidence, outcomeOf, readOomCount } from "../../src/sweeps/outcome.ts";

const evidence = (more: Partial<Evidence>): Evidence => ({
  code: null,
  signal: null,
  asked: undefined,
  finished: false,
  status: undefined,
  log: "",
  oomKills: 0,
  ...more,
});
const outcome = (more: Partial<Evidence>) => outcomeOf(evidence(more)).outcome;

describe("want of memory", () => {
  test.each([
    ["node", null, "SIGABRT", "FATAL ERROR: Reached heap limit - JavaScript heap out of memory"],
    ["C++", null, "SIGABRT", "terminate called after throwing an instance of 'std::bad_alloc'"],
    ["the kernel's ENOMEM", 1, null, "Error: spawn ENOMEM"],
    ["malloc", 1, null, "mmap: Cannot allocate memory"],
    ["PyTorch", 2, null, "error: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."],
    ["CUDA's driver", 2, null, "CUDA_ERROR_OUT_OF_MEMORY"],
    ["cuDNN", 2, null, "CUDNN_STATUS_ALLOC_FAILED"],
    ["buffers", 1, null, "RangeError: Array buffer allocation failed"],
    ["srun", 137, null, "srun: error: n1: task 0: Out Of Memory"],
    ["slurmstepd", 137, null, "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0"],
    ["a shell's exit code", 137, null, "tessera: out of memory"],
  ] as const)("as %s says it", (_, code, signal, log) => {
    expect(outcomeOf(evidence({ code, signal, log: `step 10\n${log}\n` }))).toEqual({
      outcome: "out-of-memory",
      again: false,
      error: log,
    });
  });

  test("as the run itself wrote it down", () => {
    expect(outcome({ code: 2, status: "CUDA out of memory on GPU 0" })).toBe("out-of-memory");
  });

  test("as the kernel counts it: a killed process without a word", () => {
    expect(outcome({ signal: "SIGKILL", oomKills: 1 })).toBe("out-of-memory");
    expect(outcome({ code: 137, oomKills: 1 })).toBe("out-of-memory");
    expect(outcome({ signal: "SIGKILL" })).toBe("interrupted"); // somebody's kill -9
    expect(readOomCount()).toBeGreaterThanOrEqual(0);
  });
});

test("other ends are what they were before", () => {
  expect(outcome({ code: 0, finished: true, log: "ENOMEM" })).toBe("finished");
  expect(outcome({ code: 0 })).toBe("failed");
  expect(outcome({ code: 3, log: "TypeError: x is not a function" })).toBe("failed");
  expect(outcome({ signal: "SIGSEGV", log: "out of memory" })).toBe("failed");
  expect(outcome({ code: 143 })).toBe("interrupted");
  expect(outcome({ signal: "SIGINT" })).toBe("interrupted");
  expect(outcomeOf(evidence({ code: 75 }))).toEqual({ outcome: "interrupted", again: true });
  expect(outcome({ signal: "SIGTERM", asked: "pruned" })).toBe("pruned");
  expect(outcome({ fault: new Error("ENOENT") })).toBe("failed");
});
