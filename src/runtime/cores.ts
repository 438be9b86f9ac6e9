/**
 * @file How many processor cores this process may use: what the system offers it, or less where its control
 * group has a quota of processor time (containers, Slurm, systemd). More threads than that would be stopped in
 * turns, and a step waits for the last of them.
 *
 * Version 2: the file `cpu.max` ("quota period" or "max period") of the group and of those above it.
 * Version 1: `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us`. See cgroups(7) and the kernel's
 * admin-guide/cgroup-v2.
 */

import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";

/** Cores for the threads of one operation, at least 1. */
export function usableCores(): number {
  return Math.max(1, Math.min(availableParallelism(), Math.ceil(quotaCores())));
}

/**
 * Cores that the control groups of this process allow, perhaps a fraction; Infinity without a quota.
 * @param root where the system's files are, for tests
 */
export function quotaCores(root = "/"): number {
  const groups = read(join(root, "proc/self/cgroup"))?.trim().split("\n") ?? [];
  let least = Number.POSITIVE_INFINITY;
  for (const line of groups) {
    // hierarchy:controllers:path
    const [, controllers, ...rest] = line.split(":");
    const path = rest.join(":");
    if (controllers === "") {
      for (const folder of upwards(path)) {
        const [quota, period] = read(join(root, "sys/fs/cgroup", folder, "cpu.max"))?.split(" ") ?? []; // biome-ignore format: one call
        least = Math.min(least, ratio(quota, period));
      }
    } else if (controllers?.split(",").includes("cpu")) {
      for (const mount of ["cpu", "cpu,cpuacct"]) {
        for (const folder of upwards(path)) {
          const at = join(root, "sys/fs/cgroup", mount, folder);
          const [quota, period] = ["cpu.cfs_quota_us", "cpu.cfs_period_us"].map((name) => read(join(at, name))); // biome-ignore format: one call
          least = Math.min(least, ratio(quota, period));
        }
      }
    }
  }
  return least;
}

/** A group's folder and those above it: a quota binds all below. A container may see only the topmost. */
function upwards(path: string): string[] {
  const all = [path];
  while (all.at(-1) !== "/" && all.at(-1) !== ".") {
    all.push(dirname(all.at(-1)!));
  }
  return all;
}

function ratio(quota: string | undefined, period: string | undefined): number {
  const cores = Number(quota) / Number(period);
  return Number(quota) > 0 && cores > 0 ? cores : Number.POSITIVE_INFINITY;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
