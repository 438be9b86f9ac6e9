/**
 * @file Who works on a trial. Attempt n at a trial belongs to whoever makes the file
 * `claims/<id>.<n>.json` first; the file appears whole and by one act (link), which is atomic on
 * local disks and on NFS. The owner touches it as a heartbeat. Whether an owner is gone is asked of
 * its process where it lives on this machine, and of its heartbeat elsewhere.
 */

import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { isAlive, type Owner, ownerOf } from "../trainers/lock.ts";

export interface Claim extends Owner {
  readonly trial: string;
  readonly attempt: number;
  readonly launcher: string;
  /** The scheduler's name of the job, where there is one. */
  readonly job?: string;
  /** The owner's process namespace: ids mean nothing outside of it. */
  readonly space?: string;
}

/** Seconds between heartbeats, and without one until an owner elsewhere counts as gone. */
export const heartbeatSeconds = 5;
export const staleSeconds = 60;

/** The latest attempt at each trial that has one. */
export function latestAttempts(dir: string): Map<string, number> {
  const latest = new Map<string, number>();
  const folder = join(dir, "claims");
  // Copies of a folder may lack the empty ones in it.
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    const match = /^(.+)\.(\d+)\.json$/.exec(name);
    if (match) {
      const attempt = Number(match[2]);
      latest.set(match[1]!, Math.max(attempt, latest.get(match[1]!) ?? 0));
    }
  }
  return latest;
}

export const claimPath = (dir: string, trial: string, attempt: number): string =>
  join(dir, "claims", `${trial}.${attempt}.json`);

const beatPath = (dir: string, trial: string, attempt: number): string =>
  join(dir, "claims", `${trial}.${attempt}.beat`);

export function readClaim(dir: string, trial: string, attempt: number): Claim | undefined {
  try {
    return JSON.parse(readFileSync(claimPath(dir, trial, attempt), "utf8")) as Claim;
  } catch {
    return undefined;
  }
}

/**
 * Try to take an attempt at a trial.
 * @returns false when another process was first
 */
export function takeClaim(
  dir: string,
  trial: string,
  attempt: number,
  how: { readonly launcher: string; readonly job?: string },
): boolean {
  const space = processSpace();
  const claim: Claim = { ...ownerOf(), trial, attempt, ...how, ...(space && { space }) };
  return linkNew(claimPath(dir, trial, attempt), JSON.stringify(claim));
}

/** Make a file that must not exist yet, whole and at once. Returns false when it does exist. */
export function linkNew(path: string, text: string): boolean {
  const temporary = `${path}.${hostname()}.${process.pid}.tmp`;
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(temporary, text);
  try {
    linkSync(temporary, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") {
      return false;
    }
    throw error;
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Show that the owner is there. */
export function beat(dir: string, trial: string, attempt: number): void {
  try {
    // Written, not only stamped, so that the time is the file server's.
    writeFileSync(beatPath(dir, trial, attempt), String(process.pid));
  } catch {
    // The folder may be out of reach for a moment; the next beat will tell.
  }
}

/**
 * Whether the owner of a claim still works on it.
 * @param now the file server's clock in milliseconds (`serverTime`)
 */
export function isOwned(dir: string, claim: Claim, now: number): boolean {
  if (claim.host === hostname() && claim.space === processSpace()) {
    return isAlive(claim);
  }
  const { trial, attempt } = claim;
  const seen = [claimPath(dir, trial, attempt), beatPath(dir, trial, attempt)].map(
    (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0,
  );
  return now - Math.max(...seen) < staleSeconds * 1000;
}

/**
 * The clock that the folder's time stamps follow, which on a shared disk is the server's; this machine's
 * where the folder can only be read.
 */
export function serverTime(dir: string): number {
  const path = join(dir, "claims", `.clock-${hostname()}-${process.pid}.tmp`);
  try {
    writeFileSync(path, "");
  } catch {
    return Date.now();
  }
  const time = statSync(path).mtimeMs;
  rmSync(path, { force: true });
  return time;
}

function processSpace(): string | undefined {
  try {
    return readlinkSync("/proc/self/ns/pid");
  } catch {
    return undefined;
  }
}
