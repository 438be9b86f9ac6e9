/**
 * Builds native/torch/ against the user's own PyTorch: `npm run build:torch`, or `node scripts/build-torch.mjs`
 * where there is no npm. It needs a C++20 compiler (g++ 11, clang 14 or newer; $CXX names another).
 *
 * PyTorch is found in $TORCH_DIR (the installed "torch" folder, with include/ and lib/), else by asking
 * $PYTHON or python3. With a PyTorch for CUDA, CUDA's headers are looked for in $CUDA_HOME,
 * /usr/local/cuda and the nvidia packages beside torch. Objects are kept in native/torch/build/, so a
 * second build compiles only what changed.
 */

import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const sources = join(root, "native", "torch");
const build = join(sources, "build");

class BuildError extends Error {}

function findTorch() {
  if (process.env.TORCH_DIR) {
    return resolve(process.env.TORCH_DIR);
  }
  const python = process.env.PYTHON ?? "python3";
  try {
    const code = "import os, torch; print(os.path.dirname(torch.__file__))";
    return execFileSync(python, ["-c", code], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    }).trim();
  } catch (error) {
    const reason = String(error.stderr ?? error.message)
      .trim()
      .split("\n")
      .at(-1);
    throw new BuildError(
      `${python} has no PyTorch (${reason}).\nInstall it (https://pytorch.org/get-started), or say where it is: TORCH_DIR=<folder of the torch package>, or PYTHON=<interpreter>.`,
    );
  }
}

function firstFolder(candidates, file, what) {
  const found = candidates.find((folder) => folder && existsSync(join(folder, file)));
  if (!found) {
    throw new BuildError(
      `${what} not found: looked for ${file} in\n  ${candidates.filter(Boolean).join("\n  ")}`,
    );
  }
  return found;
}

function nodeHeaders() {
  const own = process.execPath;
  return firstFolder(
    [
      join(root, "node_modules", "node-api-headers", "include"),
      join(dirname(dirname(own)), "include", "node"),
      "/usr/include/node",
    ],
    "node_api.h",
    "Node's headers (npm package node-api-headers)",
  );
}

/** Include folders of CUDA, or nothing where this PyTorch has no CUDA. */
function cudaFolders(torch) {
  if (!existsSync(join(torch, "lib", "libtorch_cuda.so"))) {
    return undefined;
  }
  const nvidia = join(dirname(torch), "nvidia");
  const packages = existsSync(nvidia)
    ? readdirSync(nvidia)
        .map((name) => join(nvidia, name, "include"))
        .filter((folder) => existsSync(folder))
    : [];
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH, "/usr/local/cuda"].map(
    (home) => home && join(home, "include"),
  );
  const main = firstFolder([...homes, ...packages], "cuda_runtime_api.h", "CUDA's headers");
  const folders = new Set([main, ...packages]);
  const nccl = [...packages, main, "/usr/include"].find((folder) =>
    existsSync(join(folder, "nccl.h")),
  );
  return { folders: [...folders], nccl };
}

function run(command, args) {
  return new Promise((done, fail) => {
    const child = spawn(command, args, { stdio: ["ignore", "inherit", "pipe"] });
    let text = "";
    child.stderr.on("data", (chunk) => (text += chunk));
    child.on("error", (error) =>
      fail(
        new BuildError(
          `${command} could not be started (${error.message}): install a C++ compiler or set CXX`,
        ),
      ),
    );
    child.on("close", (code) =>
      code === 0
        ? done()
        : fail(new BuildError(`${command} ${args.at(-1)} failed\n${text.slice(0, 8000)}`)),
    );
  });
}

async function main() {
  const torch = findTorch();
  const version = /TORCH_VERSION_(MAJOR|MINOR)\s+(\d+)/g;
  const header = firstFolder(
    [
      join(torch, "include", "torch", "headeronly"),
      join(torch, "include", "torch", "csrc", "api", "include", "torch"),
    ],
    "version.h",
    "PyTorch's headers",
  );
  const numbers = [...readFileSync(join(header, "version.h"), "utf8").matchAll(version)].map(
    (match) => match[2],
  );
  const cuda = cudaFolders(torch);
  const compiler = process.env.CXX ?? "g++";
  const flags = [
    "-std=c++20",
    "-O1", // the time is spent in PyTorch's libraries and in kernels compiled at run time
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-unused-function",
    "-Wno-attributes",
    "-Wno-sign-compare",
    "-Wno-unknown-pragmas",
    "-Wno-deprecated-declarations",
    "-DNAPI_VERSION=8",
    `-DTESSERA_TORCH_VERSION="${numbers.slice(0, 2).join(".")}"`,
    "-DUSE_C10D_GLOO",
    "-DUSE_DISTRIBUTED",
    `-I${nodeHeaders()}`,
    `-isystem${join(torch, "include")}`,
    `-isystem${join(torch, "include", "torch", "csrc", "api", "include")}`,
    // Gloo is inside libtorch_cpu, without its headers.
    ...(existsSync(join(torch, "include", "gloo")) ? [] : [`-I${join(sources, "gloo")}`]),
    ...(process.env.TESSERA_EMULATE ? ["-DTESSERA_EMULATE"] : []),
    ...(cuda ? ["-DTESSERA_CUDA", ...cuda.folders.map((folder) => `-isystem${folder}`)] : []),
    ...(cuda?.nccl ? ["-DUSE_C10D_NCCL", `-isystem${cuda.nccl}`] : []),
  ];
  mkdirSync(build, { recursive: true });
  const headers = readdirSync(sources).filter((name) => name.endsWith(".h"));
  const shared = createHash("sha256").update([compiler, ...flags, torch, ...numbers].join("\n"));
  for (const name of headers.sort()) {
    shared.update(readFileSync(join(sources, name)));
  }
  const common = shared.digest("hex");
  const files = readdirSync(sources).filter((name) => name.endsWith(".cc"));
  const jobs = files.map((name) => {
    const source = join(sources, name);
    const key = createHash("sha256")
      .update(common)
      .update(readFileSync(source))
      .digest("hex")
      .slice(0, 16);
    return { name, source, object: join(build, `${name}.${key}.o`) };
  });
  const missing = jobs
    .filter(({ object }) => !existsSync(object))
    .sort((a, b) => statSync(b.source).size - statSync(a.source).size);
  process.stdout.write(
    `PyTorch ${numbers.slice(0, 2).join(".")} in ${torch}${cuda ? ", CUDA" : ", no CUDA"}; ${missing.length} of ${jobs.length} files to compile\n`,
  );
  const prepared = missing.length > 2 ? await precompile(compiler, flags) : [];
  const take = async () => {
    for (let job = missing.shift(); job; job = missing.shift()) {
      const partial = `${job.object}.partial`;
      await run(compiler, [...flags, ...prepared, "-c", "-o", partial, job.source]);
      renameSync(partial, job.object);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, take));
  const addon = join(build, "tessera_torch.node");
  const libraries = ["-ltorch_cpu", "-lc10", ...(cuda ? ["-ltorch_cuda", "-lc10_cuda"] : [])];
  const shape =
    process.platform === "darwin"
      ? ["-dynamiclib", "-undefined", "dynamic_lookup"]
      : ["-shared", "-Wl,--no-as-needed"];
  const runtime = cuda ? cudaRuntime(torch) : [];
  await run(compiler, [
    ...shape,
    "-o",
    `${addon}.partial`,
    ...jobs.map(({ object }) => object),
    `-L${join(torch, "lib")}`,
    ...libraries,
    ...runtime,
    "-ldl",
    `-Wl,-rpath,${join(torch, "lib")}`,
  ]);
  renameSync(`${addon}.partial`, addon);
  writeFileSync(
    join(build, "built.json"),
    `${JSON.stringify({ torch, version: numbers.slice(0, 2).join("."), cuda: cuda !== undefined }, null, 2)}\n`,
  );
  process.stdout.write(`built ${addon}\n`);
}

/** PyTorch's large header compiled once for all files, with GCC: the flags that use it. */
async function precompile(compiler, flags) {
  let version;
  try {
    version = execFileSync(compiler, ["--version"], { encoding: "utf8" });
  } catch {
    return []; // what is wrong with the compiler is told when it is used
  }
  if (!/Free Software Foundation/.test(version)) {
    return [];
  }
  const folder = join(build, "prepared");
  const header = join(folder, "aten.h");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(header, "#include <ATen/ATen.h>\n");
  await run(compiler, [...flags, "-x", "c++-header", "-o", `${header}.gch`, header]);
  return ["-include", header];
}

/** CUDA's runtime library for the linker: beside torch, or the toolkit's. */
function cudaRuntime(torch) {
  const nvidia = join(dirname(torch), "nvidia");
  const folders = [
    ...(existsSync(nvidia) ? readdirSync(nvidia).map((name) => join(nvidia, name, "lib")) : []),
    join(process.env.CUDA_HOME ?? "/usr/local/cuda", "lib64"),
  ].filter((folder) => existsSync(folder));
  // NVRTC, which compiles the fused kernels, is opened by name when the addon runs.
  const paths = folders.map((folder) => `-Wl,-rpath,${folder}`);
  for (const folder of folders) {
    const file = readdirSync(folder).find((name) => /^libcudart\.so(\.\d+)*$/.test(name));
    if (file) {
      return [join(folder, file), ...paths];
    }
  }
  return paths;
}

try {
  await main();
} catch (error) {
  if (!(error instanceof BuildError)) {
    throw error;
  }
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 2;
}
