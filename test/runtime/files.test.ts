/** @file Files that survive a crash: a reader sees the old content or the new one. */

import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { writeFileAtomic } from "../../src/runtime/files.ts";

const run = promisify(execFile);
let folder = "";

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "tessera-files-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const SOURCE = new URL("../../src/runtime/files.ts", import.meta.url).href;

/** Runs a module with `fs` at hand whose named function is replaced before files.ts is loaded. */
async function child(replaced: string, body: string, path: string): Promise<number | string> {
  const script = `
    import fs from "node:fs";
    import { syncBuiltinESMExports } from "node:module";
    const original = fs.${replaced};
    fs.${replaced} = (...given) => { ${body} };
    syncBuiltinESMExports();
    const { writeFileAtomic } = await import(${JSON.stringify(SOURCE)});
    writeFileAtomic(${JSON.stringify(path)}, "the new content");
  `;
  return run(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script]).then(
    () => 0,
    (error: { code?: number; signal?: string }) => error.signal ?? error.code ?? "failed",
  );
}

test("writes text and bytes, makes folders, replaces, leaves nothing else", () => {
  const path = join(folder, "a", "b", "file");
  writeFileAtomic(path, "one");
  writeFileAtomic(path, new Uint8Array([1, 2, 3]));
  expect(Array.from(readFileSync(path))).toEqual([1, 2, 3]);
  expect(readdirSync(join(folder, "a", "b"))).toEqual(["file"]);
});

test("a process killed before the rename keeps the old content", async () => {
  const path = join(folder, "file");
  writeFileSync(path, "the old content");
  expect(await child("renameSync", 'process.kill(process.pid, "SIGKILL");', path)).toBe("SIGKILL");
  expect(readFileSync(path, "utf8")).toBe("the old content");
  expect(readdirSync(folder).filter((name) => name !== "file")).toEqual([
    expect.stringMatching(/^file\.\d+\.tmp$/),
  ]);
  writeFileAtomic(path, "and later");
  expect(readFileSync(path, "utf8")).toBe("and later");
});

test("a process killed in the middle of the values leaves no file under the name", async () => {
  const path = join(folder, "file");
  const half = 'original(given[0], "the n"); process.kill(process.pid, "SIGKILL");';
  expect(await child("writeFileSync", half, path)).toBe("SIGKILL");
  expect(existsSync(path)).toBe(false);
});

test("a write that fails says so and leaves neither a part nor a temporary file", async () => {
  const path = join(folder, "file");
  writeFileSync(path, "the old content");
  const full = 'throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });';
  expect(await child("writeFileSync", full, path)).toBe(1);
  expect(readFileSync(path, "utf8")).toBe("the old content");
  expect(readdirSync(folder)).toEqual(["file"]);
});
