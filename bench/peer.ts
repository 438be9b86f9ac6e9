/** @file The PyTorch twin as a child process: one JSON command a line, one JSON answer a line. */

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { TokenSpace } from "../src/objectives/objective.ts";
import type { Experiment } from "../src/trainers/experiment.ts";
import type { Outcome } from "./workloads.ts";

/** PyTorch is not there, or not where we looked. */
export class NoPeer extends Error {}

/** What `run` measured. */
export interface Turn {
  readonly seconds: readonly number[];
  readonly outcomes: readonly Outcome[];
  /** Processor seconds that the twin took while it was waiting for this command. */
  readonly idle_cpu: number;
}

interface Commands {
  open: {
    asked: {
      workload: string;
      file: string;
      config: Experiment;
      space: TokenSpace;
      threads: number;
    };
    answer: { variants: string[]; version: string };
  };
  choose: { asked: { variant: string }; answer: { parameters: number } };
  run: { asked: { count: number; check: boolean }; answer: Turn };
}

/** A twin, started and blocked on its input until it is asked something. */
export interface Peer {
  ask<C extends keyof Commands>(
    command: C,
    values: Commands[C]["asked"],
  ): Promise<Commands[C]["answer"]>;
  close(): void;
}

/**
 * Start the twin. Its threads are fixed by the "open" command, and by OMP_NUM_THREADS for what PyTorch
 * decides when it is loaded.
 */
export function startPeer(python: string, threads: number): Peer {
  const script = fileURLToPath(new URL("twins/twin.py", import.meta.url));
  const child: ChildProcess = spawn(python, ["-u", script], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, OMP_NUM_THREADS: String(threads), PYTHONDONTWRITEBYTECODE: "1" },
  });
  let failure: Error | undefined;
  let waiting: { resolve(line: string): void; reject(error: Error): void } | undefined;
  const fail = (error: Error): void => {
    failure ??= error;
    waiting?.reject(failure);
    waiting = undefined;
  };
  child.on("error", () => fail(new NoPeer(`"${python}" could not be started`)));
  child.stdin!.on("error", () => {}); // the exit says more
  const lines = createInterface({ input: child.stdout! });
  lines.on("line", (line) => {
    const { missing }: { missing?: string } = JSON.parse(line);
    if (missing !== undefined) {
      fail(new NoPeer(`${python}: ${missing}`));
      return;
    }
    waiting?.resolve(line);
    waiting = undefined;
  });
  // "close" comes after the last line: a twin that says why it leaves is heard.
  child.on("close", (code, signal) => {
    fail(new Error(`the PyTorch twin ended (${signal ?? `exit code ${code}`}); see above`));
  });
  return {
    async ask(command, values) {
      const answer = await new Promise<string>((resolve, reject) => {
        if (failure) {
          reject(failure);
          return;
        }
        waiting = { resolve, reject };
        child.stdin!.write(`${JSON.stringify({ do: command, ...values })}\n`);
      });
      return JSON.parse(answer);
    },
    close: () => {
      child.stdin!.end();
    },
  };
}
