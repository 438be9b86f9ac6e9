/**
 * @file One process a run folder. The lock is a file made with O_EXCL that names its owner; the lock
 * of a process that is gone (killed, machine restarted) is taken over.
 */

import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";

/** A process, named so that another one can tell whether it still runs. */
export interface Owner {
  readonly pid: number;
  readonly host: string;
  /** When the process started, to tell it from a later one with the same id. */
  readonly started: string | undefined;
}

/** This process, or another of this machine. */
export function ownerOf(pid: number = process.pid): Owner {
  return { pid, host: hostname(), started: startTime(pid) };
}

/** Take the lock of a folder; call the returned function to give it back. */
export function lockFolder(dir: string): () => void {
  mkdirSync(dir, { recursive: true });
  const path = join(dir, "lock.json");
  const mine = ownerOf();
  const temporary = `${path}.${process.pid}.tmp`;
  // The lock appears with its content in one act (link fails when the name is taken), so no
  // process ever reads a lock without an owner.
  writeFileSync(temporary, JSON.stringify(mine));
  try {
    for (let attempt = 0; ; attempt++) {
      try {
        linkSync(temporary, path);
        break;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") {
          throw error;
        }
      }
      const owner = readOwner(path);
      if (owner !== undefined && (attempt > 3 || isAlive(owner))) {
        throw new UserError(
          `${dir} is in use by process ${owner.pid} on ${owner.host}`,
          `wait for it, or end it; if it is surely gone, delete ${path}`,
        );
      }
      rmSync(path, { force: true });
    }
  } finally {
    rmSync(temporary, { force: true });
  }
  return () => {
    const owner = readOwner(path);
    if (owner?.pid === mine.pid && owner.host === mine.host) {
      rmSync(path, { force: true });
    }
  };
}

/** The owner that a lock file names; undefined when there is none that can be read. */
export function readOwner(path: string): Owner | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Owner;
  } catch {
    return undefined;
  }
}

/** Whether the owner still runs. A process of another host cannot be asked and counts as alive. */
export function isAlive({ pid, host, started }: Owner): boolean {
  if (host !== hostname()) {
    return true;
  }
  if (pid === process.pid) {
    // Either this process holds it already, or it is left over from an equal id (containers).
    return started === startTime(pid);
  }
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  if (isZombie(pid)) {
    return false;
  }
  return started === undefined || startTime(pid) === undefined || started === startTime(pid);
}

/** Has the process ended, and only its parent not yet asked how? It holds its id and does nothing. */
function isZombie(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return /^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2));
  } catch {
    return false;
  }
}

/** Something that differs between two processes with one id, where the system offers it. */
function startTime(pid: number): string | undefined {
  try {
    // /proc/<pid>/stat: field 22, counted after the parenthesised command name.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const ticks = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return `${boot}:${ticks}`;
  } catch {
    return undefined;
  }
}
