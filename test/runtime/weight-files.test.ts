/**
 * @file Readers of weight files: files that PyTorch and NumPy wrote, files written here byte by byte
 * after the formats' descriptions, and damaged ones, which must give one clear error.
 */

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { UserError } from "../../src/config/errors.ts";
import { crc32c } from "../../src/runtime/crc32c.ts";
import { encodeModel } from "../../src/runtime/onnx/model.ts";
import { encodeSafetensors } from "../../src/runtime/safetensors.ts";
import { float32, int32, type HostTensor } from "../../src/runtime/tensors.ts";
import { openWeights, weightsSha256 } from "../../src/runtime/weight-files/open.ts";
import { snappyDecode } from "../../src/runtime/weight-files/snappy.ts";
import { mergeWeights, permuted, weightsOf } from "../../src/runtime/weight-files/weights.ts";
import { golden } from "../eval/golden.ts";

type Expected = { [name: string]: { shape: number[]; values: number[] } };

const made = new URL("../goldens/weights/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "tessera-weights-"));

/** All tensors of a file, as expected.json writes them. */
function contents(path: string): Expected {
  const weights = openWeights(path);
  try {
    return Object.fromEntries(
      Array.from(weights.tensors, ([name, tensor]) => {
        const { shape, data } = tensor.read();
        return [name, { shape: [...shape], values: [...data] }];
      }),
    );
  } finally {
    weights.close();
  }
}

const concat = (...parts: (Uint8Array | readonly number[])[]): Uint8Array =>
  Uint8Array.from(parts.flatMap((part) => [...part]));

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) {
    bytes.push((value % 128) | 128);
  }
  return [...bytes, value];
}

const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 255);
const masked = (crc: number): number => (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
const field = (number: number, value: number): number[] => [
  ...varint(number * 8),
  ...varint(value),
];
const message = (number: number, bytes: readonly number[]): number[] => [
  ...varint(number * 8 + 2),
  ...varint(bytes.length),
  ...bytes,
];

interface Entry {
  name: string;
  dtype: number;
  shape: number[];
  offset: number;
  size: number;
  crc: number;
}

/** A LevelDB block; keys share prefixes with the one before, as the real writer does. */
function block(pairs: [Uint8Array, Uint8Array][], pack: boolean): Uint8Array {
  let before = new Uint8Array(0);
  const body: number[] = [];
  for (const [key, value] of pairs) {
    let shared = 0;
    while (shared < before.length && shared < key.length && before[shared] === key[shared]) {
      shared += 1;
    }
    const rest = [...key.subarray(shared)];
    body.push(
      ...varint(shared),
      ...varint(rest.length),
      ...varint(value.length),
      ...rest,
      ...value,
    );
    before = Uint8Array.from(key);
  }
  const raw = concat(body, u32(0), u32(1));
  // Snappy literals of at most 60 bytes.
  const packed: number[] = [...varint(raw.length)];
  for (let at = 0; at < raw.length; at += 60) {
    const part = raw.subarray(at, at + 60);
    packed.push((part.length - 1) << 2, ...part);
  }
  const bytes = pack ? Uint8Array.from(packed) : raw;
  const typed = concat(bytes, [pack ? 1 : 0]);
  return concat(typed, u32(masked(crc32c(typed))));
}

function bundleIndex(entries: readonly Entry[], pack: boolean, perBlock = 16): Uint8Array {
  const text = (value: string): Uint8Array => Buffer.from(value, "utf8");
  const header: [Uint8Array, Uint8Array] = [text(""), Uint8Array.from(field(1, 1))];
  const pairs = entries.map(
    ({ name, dtype, shape, offset, size, crc }): [Uint8Array, Uint8Array] => {
      const sides = shape.flatMap((side) => message(2, field(1, side)));
      const body = [
        ...field(1, dtype),
        ...message(2, sides),
        ...field(4, offset),
        ...field(5, size),
        ...varint(6 * 8 + 5),
        ...u32(crc),
      ];
      return [text(name), Uint8Array.from(body)];
    },
  );
  const all = [header, ...pairs];
  const parts: Uint8Array[] = [];
  const handles: [Uint8Array, Uint8Array][] = [];
  let at = 0;
  for (let i = 0; i < all.length; i += perBlock) {
    const some = all.slice(i, i + perBlock);
    const bytes = block(some, pack);
    handles.push([some.at(-1)![0], Uint8Array.from([...varint(at), ...varint(bytes.length - 5)])]);
    parts.push(bytes);
    at += bytes.length;
  }
  const index = block(handles, pack);
  const handle = [...varint(0), ...varint(0), ...varint(at), ...varint(index.length - 5)];
  const footer = [
    ...handle,
    ...Array.from({ length: 40 - handle.length }, () => 0),
    0x57,
    0xfb,
    0x80,
    0x8b,
    0x24,
    0x75,
    0x47,
    0xdb,
  ];
  return concat(...parts, index, footer);
}

/** flax's bytes of nested maps of float32 arrays. */
function msgpack(value: unknown): number[] {
  const text = (s: string): number[] => [0xd9, s.length, ...Buffer.from(s)];
  if (value instanceof Float32Array) {
    const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    const inner = [0x93, 0x91, value.length, ...text("float32"), 0xc4, bytes.length, ...bytes];
    return [0xc7, inner.length, 1, ...inner];
  }
  const pairs = Object.entries(value as { [key: string]: unknown });
  return [0x80 | pairs.length, ...pairs.flatMap(([key, part]) => [...text(key), ...msgpack(part)])];
}

const small: [string, HostTensor][] = [
  ["a/w", float32([2, 3], [1, 2, 3, 4, 5, 6])],
  ["b", float32([1], [0.5])],
];

/** One small file of each format, by file name. */
function writeAll(): { [name: string]: string } {
  const write = (name: string, bytes: Uint8Array): string => {
    writeFileSync(join(folder, name), bytes);
    return join(folder, name);
  };
  let offset = 0;
  const entries = small.map(([name, { shape, data }]): Entry => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const entry = { name, dtype: 1, shape: [...shape], offset, size: bytes.length };
    offset += bytes.length;
    return { ...entry, crc: masked(crc32c(bytes)) };
  });
  const raw = concat(...small.map(([, { data }]) => new Uint8Array(data.buffer)));
  write("plain.data-00000-of-00001", raw);
  write("packed.data-00000-of-00001", raw);
  const model = encodeModel({
    name: "m",
    nodes: [],
    inputs: [],
    outputs: [],
    initializers: small.map(([name, { shape, data }]) => ({
      name,
      type: "float32",
      shape,
      bytes: new Uint8Array(data.buffer),
    })),
  });
  return {
    bundle: write("plain.index", bundleIndex(entries, false)),
    "snappy bundle": write("packed.index", bundleIndex(entries, true, 1)),
    safetensors: write(
      "s.safetensors",
      encodeSafetensors({ tensors: new Map(small), metadata: {} }),
    ),
    flax: write(
      "f.msgpack",
      Uint8Array.from(msgpack({ a: { w: Float32Array.of(1, 2, 3, 4, 5, 6) } })),
    ),
    onnx: write("m.onnx", model),
    "PyTorch zip": join(made, "zip.pt"),
    "PyTorch legacy": join(made, "legacy.pth"),
    TorchScript: join(made, "script.pt"),
    npz: join(made, "arrays.npz"),
  };
}

const files = writeAll();

describe("weight files", () => {
  const expected = JSON.parse(readFileSync(join(made, "expected.json"), "utf8")) as {
    state: Expected;
    module: Expected;
    arrays: Expected;
  };

  it.each([
    ["zip.pt", expected.state],
    ["legacy.pth", expected.state],
    ["module.pt", expected.module],
    ["script.pt", expected.module],
    ["arrays.npz", expected.arrays],
  ])("%s holds what PyTorch or NumPy put there", (name, want) => {
    expect(contents(join(made, name))).toEqual(want);
  });

  it("reads TensorFlow bundles by index, data or prefix, and safetensors and ONNX", () => {
    const want = {
      "a/w": { shape: [2, 3], values: [1, 2, 3, 4, 5, 6] },
      b: { shape: [1], values: [0.5] },
    };
    for (const path of ["plain", "plain.index", "plain.data-00000-of-00001", "packed.index"]) {
      expect(contents(join(folder, path))).toEqual(want);
    }
    expect(contents(files["safetensors"]!)).toEqual(want);
    expect(contents(files["onnx"]!)).toEqual(want);
    expect(contents(files["flax"]!)).toEqual({ "a/w": { shape: [6], values: [1, 2, 3, 4, 5, 6] } });
    expect(weightsSha256(join(folder, "plain"))).toBe(
      weightsSha256(join(folder, "plain.data-00000-of-00001")),
    );
  });

  it("reads an index of the size of the FVD network's", () => {
    const { tensors } = golden<{
      tensors: (Omit<Entry, "crc"> & { crc32c_masked: number })[];
    }>("i3d_tf_checkpoint_index");
    const entries = tensors.map((tensor) => ({ ...tensor, crc: tensor.crc32c_masked }));
    const path = join(folder, "i3d.index");
    writeFileSync(path, bundleIndex(entries, true));
    const { tensors: read } = openWeights(path);
    expect([...read.keys()]).toEqual(tensors.map(({ name }) => name));
    expect([...read.values()].map(({ shape }) => shape)).toEqual(tensors.map(({ shape }) => shape));
    expect(() => read.get("RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w")!.read()).toThrow(/missing/);
  });

  it("never runs what a pickle calls", () => {
    const evil = join(folder, "evil.pth");
    const line = (text: string): number[] => [...Buffer.from(`${text}\n`)];
    const magic = [
      0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e,
    ];
    const call = [
      0x80,
      2,
      0x63,
      ...line("os"),
      ...line("system"),
      0x58,
      4,
      0,
      0,
      0,
      ...Buffer.from("true"),
      0x85,
      0x52,
      0x2e,
    ];
    const rest = [
      [0x80, 2, 0x4d, 0xe9, 3, 0x2e],
      [0x80, 2, 0x7d, 0x2e],
      call,
      [0x80, 2, 0x5d, 0x2e],
    ];
    writeFileSync(evil, Uint8Array.from([...magic, ...rest.flat()]));
    expect(() => openWeights(evil)).toThrow(/there is no tensor in it/);
  });

  it.each(Object.entries(files))("%s: cut off anywhere, it is one clear error", (name, path) => {
    const whole = readFileSync(path);
    const target = path.endsWith(".index") ? path : join(folder, `cut-${name}.onnx`);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: whole.length - 1 }), (length) => {
        writeFileSync(target, whole.subarray(0, length));
        const found = outcome(target);
        // These formats have no end of their own: a part may be whole.
        const open = name === "onnx" || name === "flax";
        expect(open && found === "read" ? "one clear error" : found).toBe("one clear error");
      }),
      { numRuns: 20 },
    );
    writeFileSync(target, whole);
  });

  it.each(Object.entries(files))(
    "%s: with any byte changed, nothing but clear errors",
    (name, path) => {
      const whole = readFileSync(path);
      const target = path.endsWith(".index") ? path : join(folder, `bad-${name}.onnx`);
      fc.assert(
        fc.property(
          fc.array(fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 255 })), {
            minLength: 1,
            maxLength: 6,
          }),
          (changes) => {
            const bytes = Uint8Array.from(whole);
            for (const [at, byte] of changes) {
              bytes[at] = byte;
            }
            writeFileSync(target, bytes);
            expect(["read", "one clear error"]).toContain(outcome(target));
          },
        ),
        { numRuns: 40 },
      );
      writeFileSync(target, whole);
    },
  );

  it("says so of bytes that are nothing at all", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const path = join(folder, "noise.bin");
        writeFileSync(path, bytes);
        expect(["read", "one clear error"]).toContain(outcome(path));
      }),
      { numRuns: 50 },
    );
    expect(() => openWeights(join(folder, "nowhere.pt"))).toThrow(/there is no weight file/);
  });

  it("notices a changed value by the checksums that a format has", () => {
    const data = join(folder, "plain.data-00000-of-00001");
    const whole = readFileSync(data);
    const bytes = Uint8Array.from(whole);
    bytes[9]! ^= 1;
    writeFileSync(data, bytes);
    expect(() => contents(join(folder, "plain"))).toThrow(/"a\/w" differ from their checksum/);
    writeFileSync(data, whole);
  });

  it("unpacks snappy's copies, also those that overlap themselves", () => {
    // "abcd" literally, then 8 bytes from 4 back, then 3 from 1 back.
    const packed = [15, 3 << 2, 97, 98, 99, 100, ((8 - 4) << 2) | 1, 4, (2 << 2) | 2, 1, 0];
    expect(Buffer.from(snappyDecode(Uint8Array.from(packed))).toString()).toBe("abcdabcdabcdddd");
  });

  it("merges files and refuses two tensors of one name; permutes axes", () => {
    const one = weightsOf([["x", int32([1], [1])]]);
    const two = weightsOf([["y", int32([1], [2])]]);
    expect([...mergeWeights([one, two]).tensors.keys()]).toEqual(["x", "y"]);
    expect(() => mergeWeights([one, one])).toThrow(UserError);
    const values = Float32Array.of(0, 1, 2, 3, 4, 5);
    expect([...permuted(values, [1, 2, 3], [2, 0, 1])]).toEqual([0, 3, 1, 4, 2, 5]);
  });
});

/** "read", "one clear error" (a UserError that names the file and has a hint), or what went wrong. */
function outcome(path: string): string {
  try {
    contents(path);
  } catch (error) {
    const clear =
      error instanceof UserError &&
      error.message.includes(path.replace(/\.index$/, "")) &&
      error.hint !== undefined;
    return clear ? "one clear error" : `${String(error)}\n${(error as Error).stack}`;
  }
  return "read";
}
