/**
 * @file `tessera run --devices N`: the same command N times on this machine, each process a rank of one
 * data-parallel training (what torchrun and srun do on several machines).
 */

import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { UserError } from "../config/errors.ts";
import { exitCodeOf, type StopSignal } from "../trainers/signals.ts";

/** How long ranks have to end by themselves once one of them has died. */
const PATIENCE = 30_000;

interface Ended {
  readonly rank: number;
  readonly code: number;
  readonly signal: NodeJS.Signals | null;
}

/**
 * Run this process's own command as `devices` ranks.
 * @param args of the command line, without the option
 * @returns the exit code of rank 0, all others having ended well
 * @throws UserError when a rank was killed
 */
export async function launchRanks(devices: number, args: readonly string[]): Promise<number> {
  if (process.env["WORLD_SIZE"] !== undefined) {
    throw new UserError(
      "--devices starts ranks, and this process is one already (WORLD_SIZE is set)",
      "leave --devices out under torchrun and the like",
    );
  }
  const port = await freePort();
  const children = Array.from({ length: devices }, (_, rank) => start(rank, devices, port, args));
  const forward = (signal: StopSignal) => () => {
    for (const child of children) {
      child.kill(signal);
    }
  };
  const listeners = (["SIGINT", "SIGTERM", "SIGUSR2"] as const).map((signal) => {
    const listener = forward(signal);
    process.on(signal, listener);
    return () => process.off(signal, listener);
  });
  // The ranks watch this process; it watches who started it.
  const supervisor = Number(process.env["TESSERA_SUPERVISOR"] ?? 0);
  const watch = setInterval(() => {
    if (supervisor > 0 && process.ppid !== supervisor) {
      forward("SIGTERM")();
    }
  }, 500);
  try {
    return await outcome(children);
  } finally {
    clearInterval(watch);
    for (const remove of listeners) {
      remove();
    }
  }
}

/** This process's environment with what makes a process one rank of `world` on this machine. */
export function rankEnvironment(rank: number, world: number, port: number): NodeJS.ProcessEnv {
  return {
    ...process.env,
    RANK: String(rank),
    LOCAL_RANK: String(rank),
    WORLD_SIZE: String(world),
    MASTER_ADDR: "127.0.0.1",
    MASTER_PORT: String(port),
  };
}

function start(rank: number, world: number, port: number, args: readonly string[]): ChildProcess {
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, ...args], {
    env: { ...rankEnvironment(rank, world, port), TESSERA_SUPERVISOR: String(process.pid) },
    // In groups of their own: a terminal's Ctrl-C reaches them once, through this process.
    detached: true,
    stdio: rank === 0 ? "inherit" : ["ignore", "ignore", "pipe"],
  });
  if (child.stderr) {
    createInterface({ input: child.stderr }).on("line", (line) => {
      process.stderr.write(`[rank ${rank}] ${line}\n`);
    });
  }
  return child;
}

/** Wait for all ranks; one that fails takes the others along. */
async function outcome(children: readonly ChildProcess[]): Promise<number> {
  let first: Ended | undefined;
  const codes = await Promise.all(
    children.map(
      (child, rank) =>
        new Promise<Ended>((resolve, reject) => {
          child.once("error", reject);
          child.once("exit", (code, signal) => {
            const ended = { rank, code: code ?? 1, signal };
            if (ended.code !== 0 && first === undefined) {
              first = ended;
              endLater(children);
            }
            resolve(ended);
          });
        }),
    ),
  );
  const killed = first?.signal ? first : undefined;
  if (killed) {
    throw new UserError(
      `rank ${killed.rank} was ended by ${killed.signal}, and the training with it`,
      "the same command goes on from the last checkpoint",
    );
  }
  // Interrupted ranks agree; otherwise the first one to fail had the reason.
  const stopped = codes[0]!.code;
  const interrupted = (["SIGINT", "SIGTERM", "SIGUSR2"] as const).map(exitCodeOf);
  return interrupted.includes(stopped) ? stopped : (first?.code ?? 0);
}

/** Ranks that do not end by themselves are told to, and at last made to. */
function endLater(children: readonly ChildProcess[]): void {
  const kill = (signal: NodeJS.Signals) => () => {
    for (const child of children) {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill(signal);
      }
    }
  };
  setTimeout(kill("SIGTERM"), PATIENCE).unref();
  setTimeout(kill("SIGKILL"), PATIENCE + 5000).unref();
}

/** A port of this machine that nobody listens on. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
