/** @file Quotas of processor time, from files as the kernel writes them. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { quotaCores, usableCores } from "../../src/runtime/cores.ts";

const made: string[] = [];
afterEach(() => made.splice(0).forEach((folder) => rmSync(folder, { recursive: true })));

function system(files: { readonly [path: string]: string }): string {
  const root = mkdtempSync(join(tmpdir(), "tessera-cores-"));
  made.push(root);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

const V2 = "0::/user.slice/job-7.scope\n";
const V1 = "9:name=systemd:/\n4:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n";

test.each([
  ["no control groups", {}, Number.POSITIVE_INFINITY],
  [
    "version 2 without a quota",
    { "proc/self/cgroup": V2, "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n" },
    Number.POSITIVE_INFINITY,
  ],
  [
    "version 2, own quota",
    { "proc/self/cgroup": V2, "sys/fs/cgroup/user.slice/job-7.scope/cpu.max": "150000 100000\n" },
    1.5,
  ],
  [
    "version 2, a quota above",
    {
      "proc/self/cgroup": V2,
      "sys/fs/cgroup/user.slice/job-7.scope/cpu.max": "800000 100000\n",
      "sys/fs/cgroup/user.slice/cpu.max": "400000 100000\n",
    },
    4,
  ],
  [
    "version 2, a container's own root",
    { "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n" },
    0.5,
  ],
  [
    "version 1",
    {
      "proc/self/cgroup": V1,
      "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "300000\n",
      "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
    },
    3,
  ],
  [
    "version 1 in a container, without",
    {
      "proc/self/cgroup": V1,
      "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
    Number.POSITIVE_INFINITY,
  ],
] as const)("%s", (_, files, cores) => {
  // biome-ignore format: a table
  expect(quotaCores(system(files))).toBe(cores);
});

test("at least one core here", () => {
  expect(usableCores()).toBeGreaterThanOrEqual(1);
  expect(Number.isInteger(usableCores())).toBe(true);
});
