/** @file Where a run's numbers come from: what is recorded, and that the code can be made again from it. */

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  driverVersion,
  gatherProvenance,
  gitState,
  packageRoot,
} from "../../src/trainers/provenance.ts";

let root: string;
beforeAll(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), "tessera-provenance-")));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const sha256 = (data: string | Uint8Array): string =>
  createHash("sha256").update(data).digest("hex");

const git = (cwd: string, ...args: string[]): string =>
  execFileSync("git", ["-c", "user.name=t", "-c", "user.email=t@t", ...args], {
    cwd,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });

const write = (path: string, data: string | Uint8Array): void => {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, data);
};

test("packages, lock file, machine, environment, command and data are recorded", () => {
  const before = { ...process.env };
  process.env["OMP_NUM_THREADS"] = "3";
  process.env["SECRET_TOKEN"] = "hush";
  const { provenance } = gatherProvenance({
    device: "a device",
    engine: "native",
    seed: 3,
    configHash: "abc",
    datasets: { train: "x", validation: "y" },
  });
  process.env = before;
  const manifest = JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8")) as {
    version: string;
    dependencies: object;
  };
  expect(provenance).toMatchObject({
    tessera: manifest.version,
    lockfile_sha256: sha256(readFileSync(join(packageRoot(), "package-lock.json"))),
    node: process.version,
    device: "a device",
    engine: "native",
    seed: 3,
    config_hash: "abc",
    command: process.argv.slice(1),
    cwd: process.cwd(),
    datasets: { train: "x", validation: "y" },
  });
  expect(Object.keys(provenance.packages).sort()).toEqual(
    Object.keys(manifest.dependencies).sort(),
  );
  expect(provenance.env["OMP_NUM_THREADS"]).toBe("3");
  expect(JSON.stringify(provenance)).not.toContain("hush");
  for (const text of [provenance.os, provenance.cpu, provenance.host]) {
    expect(text).not.toBe("");
  }
  expect(Date.parse(provenance.started)).toBeLessThanOrEqual(Date.now());
});

describe("code", () => {
  test("a clean checkout is its commit; changes and new files come as a diff that makes them again", () => {
    const repo = join(root, "repo");
    write(join(repo, "src/a.ts"), "one\n");
    write(join(repo, ".gitignore"), "ignored.ts\n");
    git(repo, "init", "-q", "-b", "main");
    git(repo, "add", "-A");
    git(repo, "commit", "-q", "-m", "first");
    const commit = git(repo, "rev-parse", "HEAD").trim();
    expect(gitState(repo)).toEqual({ git: { commit, branch: "main", dirty: false } });
    write(join(repo, "src/a.ts"), "two\n");
    write(join(repo, "src/new/b.ts"), "no line's end");
    write(
      join(repo, "native/c.bin"),
      Uint8Array.from({ length: 300 }, (_, i) => i % 256),
    );
    write(join(repo, "src/ignored.ts"), "not the program's");
    write(join(repo, "notes.txt"), "not the program's");
    const { git: state, diff } = gitState(repo);
    expect(state).toEqual({
      commit,
      branch: "main",
      dirty: true,
      diff_sha256: sha256(diff!),
      diff_file: "uncommitted.diff",
    });
    const again = join(root, "again");
    git(root, "clone", "-q", repo, again);
    write(join(root, "uncommitted.diff"), diff!);
    git(again, "apply", "--whitespace=nowarn", join(root, "uncommitted.diff"));
    for (const name of ["src/a.ts", "src/new/b.ts", "native/c.bin"]) {
      expect(readFileSync(join(again, name))).toEqual(readFileSync(join(repo, name)));
    }
    expect(existsSync(join(again, "src/ignored.ts"))).toBe(false);
    expect(existsSync(join(again, "notes.txt"))).toBe(false);
    // Looking changes nothing: new files are still new.
    expect(git(repo, "status", "--porcelain")).toContain("?? src/new/");
  });

  test("a sweep's copy of the program remembers its own, and a folder without git has none", () => {
    const copy = join(root, "copy");
    write(join(copy, "snapshot.json"), JSON.stringify({ git: { commit: "c0ffee", dirty: true } }));
    write(join(copy, "uncommitted.diff"), "a diff");
    expect(gitState(copy)).toEqual({ git: { commit: "c0ffee", dirty: true }, diff: "a diff" });
    const bare = join(root, "bare");
    mkdirSync(bare);
    expect(gitState(bare)).toEqual({});
  });
});

test("the driver's version is told by the kernel's module", () => {
  const text = `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (dvs)
GCC version:  gcc version 12.2.0`;
  expect(driverVersion(text)).toBe("580.82.07");
  expect(
    driverVersion("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2"),
  ).toBe("470.256.02");
  expect(driverVersion("GCC version: 12.2.0")).toBeUndefined();
});
