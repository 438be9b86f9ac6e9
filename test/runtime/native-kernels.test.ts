/**
 * @file The C++ kernels of native/cpu/kernels by themselves: compiles their check, which compares each
 * with plain loops in double precision over random odd shapes, and runs it. Skipped without a compiler.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

const kernels = fileURLToPath(new URL("../../native/cpu/kernels", import.meta.url));
const compiler = [process.env["CXX"], "c++", "g++", "clang++"].find(
  (name) => name && spawnSync(name, ["--version"]).status === 0,
);
if (!compiler) {
  process.stderr.write("the native kernels are not checked: no C++ compiler\n");
}
const folder = mkdtempSync(join(tmpdir(), "tessera-kernels-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.skipIf(!compiler)("kernels agree with plain loops", { timeout: 240_000 }, () => {
  const check = join(folder, "check");
  const native =
    process.platform === "darwin" && process.arch === "arm64" ? "-mcpu=native" : "-march=native";
  const sources = readdirSync(kernels).filter((name) => name.endsWith(".cc"));
  execFileSync(
    compiler!,
    ["-O1", native, "-std=c++17", ...sources, "test/check.cc", "-pthread", "-o", check],
    { cwd: kernels, stdio: ["ignore", "inherit", "inherit"] },
  );
  const { status, stdout } = spawnSync(check, ["5", "12"], { encoding: "utf8" });
  const lines = stdout.trim().split("\n");
  expect(lines.length).toBeGreaterThan(40); // a line a kernel with its worst error
  expect(lines.filter((line) => line.includes("WRONG"))).toEqual([]);
  expect(status).toBe(0);
});
