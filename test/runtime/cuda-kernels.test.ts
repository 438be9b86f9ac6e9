/**
 * @file The hand-written CUDA kernels of native/torch without a GPU: their sources as C++ of this processor, every
 * thread of a block a thread (native/torch/test). What is checked is their arithmetic, their barriers and their
 * indices; not whether NVRTC takes them or how they are started.
 */

import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const run = promisify(execFile);
const folder = fileURLToPath(new URL("../../native/torch/", import.meta.url));
const compiler = process.env["CXX"] ?? "g++";
const hasCompiler = await run(compiler, ["--version"]).then(
  () => true,
  () => false,
);
if (!hasCompiler) {
  process.stderr.write("CUDA kernels are not emulated: there is no C++ compiler\n");
}

/** A kernel source of a file, by the name of its constant. */
function sourceOf(file: string, name: string): string {
  const text = readFileSync(join(folder, file), "utf8");
  const found = new RegExp(`const char\\* (?:const )?${name} = R"\\(([\\s\\S]*?)\\)";`).exec(text);
  expect(found, `${file} has no ${name}`).not.toBeNull();
  return found![1]!;
}

/** As C++ of a processor; what is PTX or declared by the shim is replaced. */
const translated = (source: string): string =>
  source
    .replace("typedef unsigned short bf16;", "")
    .replace("#define FORCE __device__ __forceinline__", "")
    .replaceAll(/asm\("cvt\.rn\.bf16[^\n]*?\);/g, "to = narrowed(x);")
    .replaceAll(/asm volatile[^\n]*/g, "")
    .replaceAll(/extern __shared__ float (\w+)\[\];/g, "static float $1[1 << 15];")
    .replaceAll(/#pragma unroll[^\n]*/g, "")
    .replaceAll('extern "C" ', "");

type Sizes = { readonly [name: string]: number };
type Types = { readonly [name: string]: "float" | "bf16" };

interface Variant {
  readonly file: string;
  readonly source: string;
  readonly sizes?: Sizes;
  readonly types?: Types;
}

const rows = (
  sizes: Sizes,
  types: { readonly X: "float" | "bf16"; readonly Y: "float" | "bf16" },
): Variant => ({
  file: "decode.cc",
  source: "kRowsSource",
  sizes: { NORM: 0, GELU: 0, BIAS: 1, RESIDUAL: 0, ...sizes },
  types: { ...types, B: "bf16", R: "float" },
});
const layer = (sizes: Sizes, types: Types): Variant => ({
  file: "norms.cc",
  source: "kLayerSource",
  sizes,
  types,
});
const group = (sizes: Sizes, types: Types): Variant => ({
  file: "norms.cc",
  source: "kSource",
  sizes: { THREADS: 256, ...sizes },
  types,
});
const step = (D: number, types: Types): Variant => ({
  file: "decode.cc",
  source: "kStepSource",
  sizes: { D, CHUNK: 128 },
  types,
});

const VARIANTS: { readonly [namespace: string]: Variant } = {
  rowsNorm: rows({ M: 1, K: 1024, N: 20, NORM: 1 }, { X: "float", Y: "bf16" }),
  rowsGelu: rows({ M: 3, K: 256, N: 20, NORM: 1, GELU: 1, BIAS: 0 }, { X: "float", Y: "float" }),
  rowsResidual: rows({ M: 2, K: 4096, N: 9, RESIDUAL: 1 }, { X: "bf16", Y: "float" }),
  stepFloat: step(64, { X: "float", K: "float", Y: "float" }),
  stepNarrow: step(32, { X: "bf16", K: "float", Y: "float" }),
  layerNarrow: layer(
    { VEC: 4, C: 1024, THREADS: 256, SUMS: 3 },
    { X: "float", Y: "bf16", D: "bf16" },
  ),
  layerOdd: layer({ VEC: 4, C: 36, THREADS: 32, SUMS: 3 }, { X: "float", Y: "float", D: "float" }),
  layerWide: layer(
    { VEC: 8, C: 2048, THREADS: 256, SUMS: 2 },
    { X: "float", Y: "float", D: "bf16" },
  ),
  groupNarrow: group({ VEC: 8, C: 64, G: 8, P: 75, SILU: 1 }, { X: "bf16", Y: "bf16", D: "bf16" }),
  groupFloat: group(
    { VEC: 4, C: 16, G: 4, P: 130, SILU: 0 },
    { X: "float", Y: "float", D: "float" },
  ),
  gelu: { file: "gelu.cc", source: "kSource", sizes: { C: 40 } },
  joined: { file: "ops_shaping.cc", source: "kConcatSource", sizes: { N1: 5, N2: 3, N3: 4 } },
  moves: { file: "loops.cc", source: "kMoveSource", sizes: { MOST: 4 } },
};

test.skipIf(!hasCompiler)("every kernel agrees with plain loops", async () => {
  const work = mkdtempSync(join(tmpdir(), "tessera-kernels-"));
  try {
    const parts = Object.entries(VARIANTS).map(([name, { file, source, sizes = {}, types = {} }]) =>
      [
        `namespace ${name} {`,
        ...Object.entries(sizes).map(([key, value]) => `constexpr int ${key} = ${value};`),
        ...Object.entries(types).map(([key, type]) => `typedef ${type} ${key};`),
        translated(sourceOf(file, source)),
        // Macros of a source end with it.
        ...["LANES", "ROWS"].map((macro) => `#undef ${macro}`),
        "}",
      ].join("\n"),
    );
    const prelude = translated(sourceOf("kernel_cache.cc", "kPrelude"));
    writeFileSync(
      join(work, "sources.h"),
      ["#define __CUDA_ARCH__ 0", prelude, ...parts].join("\n"),
    );
    const program = join(work, "kernels");
    const flags = ["-std=c++20", "-O1", "-w", "-pthread", `-I${work}`, "-o", program];
    await run(compiler, [...flags, join(folder, "test", "kernels.cc")]);
    const { stdout } = await run(program);
    expect(
      stdout
        .trim()
        .split("\n")
        .filter((line) => !line.startsWith("ok ")),
    ).toEqual([]);
    expect(stdout.trim().split("\n").length).toBeGreaterThan(20);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
});
