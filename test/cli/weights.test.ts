/** @file `tessera weights` as a user meets it: list, check of right and wrong files, conversion. */

import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { buildProgram } from "../../src/cli/program.ts";
import { encodeSafetensors } from "../../src/runtime/safetensors.ts";
import { float32, type HostTensor, sizeOf } from "../../src/runtime/tensors.ts";
import { openWeights } from "../../src/runtime/weight-files/open.ts";
import { sym } from "../models/features/formula.ts";

const folder = mkdtempSync(join(tmpdir(), "tessera-weights-cli-"));

/** What a command prints. */
async function tessera(...args: string[]): Promise<string> {
  let printed = "";
  const out = vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    printed += String(text);
    return true;
  });
  const err = vi.spyOn(process.stderr, "write").mockReturnValue(true);
  try {
    await buildProgram().parseAsync(["node", "tessera", "weights", ...args]);
  } finally {
    out.mockRestore();
    err.mockRestore();
  }
  return printed;
}

/** AlexNet and heads with other values than the published ones. */
function wrongAlexNet(): string {
  const shapes: [string, number[]][] = [
    ["features.0", [64, 3, 11, 11]],
    ["features.3", [192, 64, 5, 5]],
    ["features.6", [384, 192, 3, 3]],
    ["features.8", [256, 384, 3, 3]],
    ["features.10", [256, 256, 3, 3]],
  ];
  const tensors = shapes.flatMap(([name, shape], i): [string, HostTensor][] => [
    [
      `${name}.weight`,
      float32(shape, sym(i, sizeOf(shape), Math.sqrt(6 / sizeOf(shape.slice(1))))),
    ],
    [`${name}.bias`, float32([shape[0]!], sym(100 + i, shape[0]!, 0.1))],
    [
      `lin${i}.model.1.weight`,
      float32(
        [1, shape[0]!, 1, 1],
        sym(200 + i, shape[0]!).map((value) => Math.abs(value)),
      ),
    ],
  ]);
  const path = join(folder, "alex.safetensors");
  writeFileSync(path, encodeSafetensors({ tensors: new Map(tensors), metadata: {} }));
  return path;
}

describe("tessera weights", () => {
  afterEach(() => {
    process.exitCode = undefined;
  });

  it("lists every network with files, sources and licences", async () => {
    const text = await tessera("list");
    for (const name of ["i3d", "inception-fid", "lpips-vgg16", "lpips-alexnet", "clip-b32"]) {
      expect(text).toContain(name);
    }
    const networks = JSON.parse(await tessera("list", "--json")) as {
      files: { names: string[]; from: string[]; licence: string }[];
    }[];
    for (const { files } of networks) {
      for (const file of files) {
        expect(file.names.length * file.from.length * file.licence.length).toBeGreaterThan(0);
      }
    }
  });

  it("tells weights that are not the published ones", async () => {
    const text = await tessera("check", "lpips-alexnet", wrongAlexNet());
    expect(text).toContain("FAILS");
    expect(text).toContain("not the published weights");
    expect(process.exitCode).toBe(1);
  });

  it("names what a file lacks, and what a name could have meant", async () => {
    const path = wrongAlexNet();
    await expect(tessera("check", "lpips-vgg16", path)).rejects.toThrow(/features\.2\.weight/);
    await expect(tessera("check", "i3d", path)).rejects.toThrow(/none of the namings/);
    await expect(tessera("check", "i4d")).rejects.toThrow(/no network "i4d"/);
  });

  it("converts, and does not write over a file unasked", async () => {
    const from = new URL("../goldens/weights/zip.pt", import.meta.url).pathname;
    const to = join(folder, "converted.safetensors");
    expect(await tessera("convert", from, to)).toContain("10 tensors");
    const before = openWeights(from);
    const after = openWeights(to);
    for (const [name, tensor] of before.tensors) {
      expect([...after.tensors.get(name)!.read().data]).toEqual([...tensor.read().data]);
    }
    await expect(tessera("convert", from, to)).rejects.toThrow(/exists already/);
    await tessera("convert", from, to, "--force");
  });
});
