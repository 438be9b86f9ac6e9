/**
 * Everything that is TypeScript outside of src too (scripts, bench, the cases of test/runtime) as plain JavaScript
 * in build/js, for machines with Node and no development packages: `node scripts/plain-js.mjs`, then there
 * `node build/js/scripts/device-suite.js cuda`.
 */

import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const out = join(root, "build", "js");
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const config = join(root, "build", "tsconfig.js.json");
writeFileSync(
  config,
  JSON.stringify({
    extends: "../tsconfig.json",
    compilerOptions: {
      noEmit: false,
      allowImportingTsExtensions: false,
      types: ["node"],
      rootDir: "..",
      outDir: "js",
    },
    include: [
      "../src",
      "../scripts",
      "../bench",
      "../test/runtime/harness.ts",
      "../test/runtime/cases",
    ],
  }),
);
execFileSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", config], {
  stdio: "inherit",
});
cpSync(join(root, "bench", "experiments"), join(out, "bench", "experiments"), { recursive: true });
cpSync(join(root, "bench", "twins"), join(out, "bench", "twins"), { recursive: true });
for (const name of ["native", "configs", "package.json"]) {
  if (!existsSync(join(out, name))) {
    symlinkSync(join("..", "..", name), join(out, name));
  }
}
process.stdout.write("build/js is ready\n");
