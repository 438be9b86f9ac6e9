/**
 * @file Compiles native/cpu with the system's C++ compiler into build/native/<platform>-<arch>/. Nothing is
 * downloaded: Node's headers come with the package node-api-headers. Unchanged sources are not compiled
 * again. Without a compiler it says so in one line and ends well: device `cpu` then uses ONNX Runtime.
 *
 *   node scripts/build-native.mjs [--verbose]
 */

import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, cpus } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = join(root, "build", "native", `${process.platform}-${process.arch}`);
const objects = join(folder, "objects");
const addon = join(folder, "tessera_cpu.node");
const stamp = join(folder, "build.json");
const verbose = process.argv.includes("--verbose");

/** @returns {{ path: string, version: string } | undefined} */
function findCompiler() {
  for (const path of [process.env.CXX, "c++", "g++", "clang++"]) {
    try {
      if (path) {
        const version = execFileSync(path, ["--version"], {
          encoding: "utf8",
          stdio: ["ignore", "pipe", "ignore"],
        });
        return { path, version };
      }
    } catch {
      // not this one
    }
  }
  return undefined;
}

/** Files of a folder and those below it. */
function filesUnder(dir) {
  return readdirSync(dir, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) =>
      entry.isDirectory() ? filesUnder(join(dir, entry.name)) : [join(dir, entry.name)],
    );
}

/** Node's C headers: from npm, or beside the running node. */
function headers() {
  const beside = join(dirname(dirname(process.execPath)), "include", "node");
  try {
    const { include_dir } = createRequire(import.meta.url)("node-api-headers");
    return include_dir;
  } catch {
    return existsSync(join(beside, "node_api.h")) ? beside : undefined;
  }
}

function flagsFor(version) {
  const native =
    process.platform === "darwin" && process.arch === "arm64" ? "-mcpu=native" : "-march=native";
  const clang = /clang/i.test(version);
  return [
    "-O3",
    native,
    "-std=c++17",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-DNDEBUG",
    "-DNAPI_VERSION=8",
    ...(process.arch === "x64" && !clang ? ["-mprefer-vector-width=512"] : []),
  ];
}

function say(text) {
  process.stdout.write(`${text}\n`);
}

const withoutEngine = "device cpu uses the slower ONNX Runtime engine";

async function main() {
  if (process.platform === "win32") {
    say(`native engine: not built on Windows; ${withoutEngine} (WSL builds it)`);
    return;
  }
  const compiler = findCompiler();
  const include = headers();
  if (!compiler || !include) {
    const missing = compiler
      ? "Node's headers (`npm install`)"
      : "a C++17 compiler (Debian: apt install g++, Fedora: dnf install gcc-c++, macOS: xcode-select --install)";
    say(
      `native engine: not built; ${withoutEngine} until you install ${missing} and run \`npm run build\``,
    );
    return;
  }
  const source = join(root, "native", "cpu");
  const all = filesUnder(source).filter((path) => !path.includes(`${join("kernels", "test")}`));
  const texts = new Map(all.map((path) => [path, readFileSync(path)]));
  const flags = flagsFor(compiler.version);
  const cpu = cpus()[0]?.model ?? "";
  const common = createHash("sha256").update(JSON.stringify([compiler, flags, cpu, include]));
  for (const [path, text] of texts) {
    if (/\.(h|inc)$/.test(path)) {
      common.update(path).update(text);
    }
  }
  const base = common.digest("hex");
  const units = all
    .filter((path) => path.endsWith(".cc"))
    .map((path) => {
      const key = createHash("sha256")
        .update(base)
        .update(texts.get(path))
        .digest("hex")
        .slice(0, 24);
      const name = relative(source, path).replaceAll(/[/\\.]/g, "_");
      return { path, object: join(objects, `${name}-${key}.o`) };
    });
  const key = createHash("sha256")
    .update(units.map((unit) => unit.object).join())
    .digest("hex");
  if (
    existsSync(addon) &&
    existsSync(stamp) &&
    JSON.parse(readFileSync(stamp, "utf8")).key === key
  ) {
    return;
  }
  mkdirSync(objects, { recursive: true });
  const begin = performance.now();
  const waiting = units.filter((unit) => !existsSync(unit.object));
  const compile = async () => {
    for (let unit = waiting.shift(); unit; unit = waiting.shift()) {
      const temporary = `${unit.object}.${process.pid}.tmp`;
      const given = [...flags, `-I${include}`, "-c", unit.path, "-o", temporary];
      if (verbose) {
        say(`${compiler.path} ${given.join(" ")}`);
      }
      await run(compiler.path, given, { maxBuffer: 1 << 26 });
      renameSync(temporary, unit.object);
    }
  };
  const compiled = waiting.length;
  try {
    await Promise.all(Array.from({ length: availableParallelism() }, compile));
    const link =
      process.platform === "darwin" ? ["-bundle", "-undefined", "dynamic_lookup"] : ["-shared"];
    const temporary = `${addon}.${process.pid}.tmp`;
    await run(
      compiler.path,
      [...link, "-pthread", "-O3", ...units.map((unit) => unit.object), "-o", temporary],
      { maxBuffer: 1 << 26 },
    );
    renameSync(temporary, addon);
  } catch (error) {
    // The run that fails leaves no half-built engine behind.
    rmSync(stamp, { force: true });
    rmSync(addon, { force: true });
    say(
      `native engine: not built, the compiler failed; ${withoutEngine}\n${error.stderr ?? error.message}`,
    );
    return;
  }
  writeFileSync(
    `${stamp}.tmp`,
    JSON.stringify({ key, cpu, compiler: compiler.version.split("\n")[0] }),
  );
  renameSync(`${stamp}.tmp`, stamp);
  const kept = new Set(units.map((unit) => unit.object));
  for (const path of filesUnder(objects)) {
    if (!kept.has(path)) {
      rmSync(path, { force: true });
    }
  }
  const seconds = ((performance.now() - begin) / 1000).toFixed(0);
  say(
    `native engine: ${compiled} files compiled by ${compiler.version.split("\n")[0]} in ${seconds} s`,
  );
}

await main();
