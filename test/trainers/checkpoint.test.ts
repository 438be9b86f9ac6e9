import { readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { UserError } from "../../src/config/errors.ts";
import { decodeSafetensors, encodeSafetensors } from "../../src/runtime/safetensors.ts";
import { float32, type HostTensor, int32, uint8 } from "../../src/runtime/tensors.ts";
import { checkpointPath, latestCheckpoint, saveCheckpoint } from "../../src/trainers/checkpoint.ts";
import { temporaryFolder } from "./support.ts";

const never = (message: string) => {
  throw new Error(`unexpected warning: ${message}`);
};

function checkpoint(step: number) {
  const tensors = new Map<string, HostTensor>([
    ["model/kernel", float32([2, 2], [step, 1, 2, 3])],
    ["ema/kernel", float32([2, 2], [4, 5, 6, Number.NaN])],
  ]);
  return { step, tensors, loop: { count: 2, sums: { loss: 0.1 + 0.2 } } };
}

describe("safetensors", () => {
  test("round trip of any tensors", () => {
    const floats = fc.array(fc.float(), { maxLength: 9 }).map((x) => float32([x.length], x));
    const bytes = fc.uint8Array({ maxLength: 9 }).map((x) => uint8([x.length, 1], x));
    const ints = fc.array(fc.integer(), { maxLength: 5 }).map((x) => int32([1, x.length], x));
    const tensors = fc.dictionary(fc.string({ minLength: 1 }), fc.oneof(floats, bytes, ints));
    fc.assert(
      fc.property(tensors, (given) => {
        const names = Object.keys(given).filter((name) => name !== "__metadata__");
        const map = new Map(names.map((name) => [name, given[name]!]));
        const file = encodeSafetensors({ tensors: map, metadata: { note: "é" } });
        const reversed = new Map([...map].toReversed());
        expect(encodeSafetensors({ tensors: reversed, metadata: { note: "é" } })).toEqual(file);
        const back = decodeSafetensors(file);
        expect(back.metadata["note"]).toBe("é");
        expect(new Map(back.tensors)).toEqual(map);
      }),
      { numRuns: 60 },
    );
  });

  test("follows the published layout", () => {
    const file = encodeSafetensors({
      tensors: new Map<string, HostTensor>([
        ["b", float32([1], [1.5])],
        ["a", uint8([3], Uint8Array.of(1, 2, 3))],
      ]),
      metadata: {},
    });
    const length = Number(new DataView(file.buffer).getBigUint64(0, true));
    expect(length % 8).toBe(0);
    const header = JSON.parse(Buffer.from(file.subarray(8, 8 + length)).toString()) as object;
    expect(header).toMatchObject({
      b: { dtype: "F32", shape: [1], data_offsets: [0, 4] },
      a: { dtype: "U8", shape: [3], data_offsets: [4, 7] },
    });
    expect(file.length).toBe(8 + length + 7);
  });

  test("every cut and every flipped bit is noticed", () => {
    const file = encodeSafetensors({
      tensors: new Map([["x", float32([8], [1, 2, 3, 4, 5, 6, 7, 8])]]),
      metadata: {},
    });
    for (let length = 0; length < file.length; length += 5) {
      expect(() => decodeSafetensors(file.slice(0, length))).toThrow(/safetensors|tensor/);
    }
    for (let i = file.length - 32; i < file.length; i++) {
      const damaged = file.slice();
      damaged[i]! ^= 4;
      expect(() => decodeSafetensors(damaged)).toThrow(/checksum/);
    }
  });
});

describe("checkpoints", () => {
  test("come back whole, the last two are kept, equal state gives equal bytes", () => {
    const dir = temporaryFolder();
    expect(latestCheckpoint(dir, never)).toBeUndefined();
    for (const step of [1, 2, 3]) {
      saveCheckpoint(dir, checkpoint(step));
    }
    expect(readdirSync(dir).sort()).toEqual([
      "latest.json",
      "step-00000002.safetensors",
      "step-00000003.safetensors",
    ]);
    const back = latestCheckpoint(dir, never)!;
    expect(back.step).toBe(3);
    expect(back.loop).toEqual({ count: 2, sums: { loss: 0.1 + 0.2 } });
    expect(new Map(back.tensors)).toEqual(checkpoint(3).tensors);
    const other = temporaryFolder();
    saveCheckpoint(other, checkpoint(3));
    expect(readFileSync(checkpointPath(other, 3))).toEqual(readFileSync(checkpointPath(dir, 3)));
  });

  test("a damaged one is passed over with a warning, and all damaged is an error", () => {
    const dir = temporaryFolder();
    saveCheckpoint(dir, checkpoint(10));
    saveCheckpoint(dir, checkpoint(20));
    truncateSync(checkpointPath(dir, 20), 100);
    const warnings: string[] = [];
    expect(latestCheckpoint(dir, (m) => warnings.push(m))?.step).toBe(10);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain("step-00000020.safetensors");
    writeFileSync(checkpointPath(dir, 10), "");
    expect(() => latestCheckpoint(dir, () => undefined)).toThrow(UserError);
    writeFileSync(join(dir, "step-00000030.safetensors.77.tmp"), "left by a killed process");
    saveCheckpoint(dir, checkpoint(30));
    expect(readdirSync(dir).some((name) => name.endsWith(".tmp"))).toBe(false);
  });
});
