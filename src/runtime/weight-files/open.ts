/**
 * @file Opens a weight file of any format that is known here, told by its content: safetensors,
 * PyTorch (ZIP and legacy), TensorFlow checkpoints, flax MessagePack, ONNX, NumPy. No code in a file
 * is ever run.
 */

import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "../../config/errors.ts";
import { BadFile, type ByteSource, fileSource } from "./bytes.ts";
import { readFlaxMsgpack } from "./msgpack-file.ts";
import { isNpy, readNpy } from "./npy.ts";
import { readOnnxModel } from "./onnx-file.ts";
import { readSafetensorsFile } from "./safetensors-file.ts";
import { isBundleIndex, readTfBundle } from "./tf-bundle.ts";
import { isLegacyTorch, isTorchZip, readLegacyTorch, readTorchZip } from "./torch-file.ts";
import type { StoredTensor, Weights } from "./weights.ts";
import { readZip } from "./zip.ts";

/** Where a path leads: a TensorFlow checkpoint is named by its index, its data or what they share. */
function filesOf(path: string): { main: string; prefix?: string } {
  const data = /^(.*)\.data-\d{5}-of-\d{5}$/.exec(path)?.[1];
  const prefix = data ?? (path.endsWith(".index") ? path.slice(0, -".index".length) : path);
  if (data !== undefined || prefix !== path || (!existsSync(path) && existsSync(`${path}.index`))) {
    return { main: `${prefix}.index`, prefix };
  }
  return { main: path };
}

const shardPath = (prefix: string, shard: number, shards: number): string =>
  `${prefix}.data-${String(shard).padStart(5, "0")}-of-${String(shards).padStart(5, "0")}`;

/**
 * Open a weight file; `close` it when its tensors are read.
 * @throws UserError when it is missing, of no known format, cut off or damaged
 */
export function openWeights(path: string): Weights {
  const { main, prefix } = filesOf(path);
  if (!existsSync(main) || !statSync(main).isFile()) {
    throw new UserError(
      `there is no weight file ${main}`,
      "`tessera weights list` says which files are needed and where they are to be had",
    );
  }
  const opened: ByteSource[] = [];
  const open = (file: string): ByteSource => {
    if (!existsSync(file)) {
      throw new BadFile(`${basename(file)}, which holds its values, is missing beside it`);
    }
    const source = fileSource(file);
    opened.push(source);
    return source;
  };
  const close = (): void => {
    for (const source of opened) {
      source.close();
    }
  };
  try {
    const { format, tensors } = readAny(open(main), main, prefix, open);
    const guarded = Array.from(
      tensors,
      ([name, tensor]) =>
        [name, { ...tensor, read: () => explained(path, () => tensor.read()) }] as const,
    );
    return { source: path, format, tensors: new Map(guarded), close };
  } catch (error) {
    close();
    throw asUserError(path, error);
  }
}

interface Parsed {
  readonly format: string;
  readonly tensors: Map<string, StoredTensor>;
}

function readAny(
  source: ByteSource,
  main: string,
  prefix: string | undefined,
  open: (file: string) => ByteSource,
): Parsed {
  if (source.size < 8) {
    throw new BadFile(`it has ${source.size} bytes, too few for any format`);
  }
  const head = source.read(0, Math.min(source.size, 16));
  if (isBundleIndex(source) || prefix !== undefined) {
    const shards = new Map<number, ByteSource>();
    const stem = prefix ?? main.replace(/\.index$/, "");
    const tensors = readTfBundle(source, (shard, count) => {
      const known = shards.get(shard) ?? open(shardPath(stem, shard, count));
      shards.set(shard, known);
      return known;
    });
    return { format: "TensorFlow checkpoint", tensors };
  }
  if (head[0] === 0x50 && head[1] === 0x4b) {
    return readZipFile(source);
  }
  if (isLegacyTorch(head)) {
    return { format: "PyTorch legacy", tensors: readLegacyTorch(source) };
  }
  if (isNpy(head)) {
    const tensor = readNpy(source.read(0, source.size), "array");
    return { format: "NumPy", tensors: new Map([["array", tensor]]) };
  }
  if (head[8] === 0x7b) {
    return { format: "safetensors", tensors: readSafetensorsFile(source) };
  }
  if (
    /\.(msgpack|flax)$/.test(main) ||
    head[0] === 0xde ||
    head[0] === 0xdf ||
    (head[0]! & 0xf0) === 0x80
  ) {
    return { format: "flax MessagePack", tensors: readFlaxMsgpack(source.read(0, source.size)) };
  }
  if (head[0] === 0x08 || main.endsWith(".onnx")) {
    const beside = (name: string): ByteSource => {
      if (name === "" || basename(name) !== name) {
        throw new BadFile(
          `its values are said to lie in "${name}", which is outside of its folder`,
        );
      }
      return open(join(dirname(main), name));
    };
    return { format: "ONNX", tensors: readOnnxModel(source.read(0, source.size), beside) };
  }
  throw new BadFile(
    "it begins as no format that is known here (safetensors, PyTorch, TensorFlow checkpoint, flax MessagePack, ONNX, NumPy)",
  );
}

function readZipFile(source: ByteSource): Parsed {
  const entries = readZip(source);
  if (isTorchZip(entries)) {
    return { format: "PyTorch zip", tensors: readTorchZip(entries) };
  }
  const arrays = [...entries.values()].filter(({ name }) => name.endsWith(".npy"));
  if (arrays.length === 0) {
    throw new BadFile("it is a ZIP without PyTorch's data.pkl or NumPy's arrays");
  }
  const tensors = arrays.map((entry): [string, StoredTensor] => {
    const name = entry.name.slice(0, -".npy".length);
    return [name, readNpy(entry.read(), name)];
  });
  return { format: "NumPy npz", tensors: new Map(tensors) };
}

/** A fault of the file as the error that a person reads. Anything else is a bug and stays one. */
function asUserError(path: string, error: unknown): unknown {
  return error instanceof BadFile
    ? new UserError(
        `${path} cannot be read as a weight file: ${error.message}`,
        "get the file again and compare its checksum",
        { cause: error },
      )
    : error;
}

function explained<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw asUserError(path, error);
  }
}

/** SHA-256 of a weight file, read in parts; of a TensorFlow checkpoint, of its data files in order. */
export function weightsSha256(path: string): string {
  const { main, prefix } = filesOf(path);
  const files = prefix === undefined ? [main] : dataFiles(prefix);
  const hash = createHash("sha256");
  for (const file of files) {
    const source = fileSource(file);
    try {
      const part = 2 ** 24;
      for (let at = 0; at < source.size; at += part) {
        hash.update(source.read(at, Math.min(part, source.size - at)));
      }
    } finally {
      source.close();
    }
  }
  return hash.digest("hex");
}

function dataFiles(prefix: string): string[] {
  for (let shards = 1; shards <= 1000; shards++) {
    if (existsSync(shardPath(prefix, 0, shards))) {
      return Array.from({ length: shards }, (_, i) => shardPath(prefix, i, shards));
    }
  }
  throw new UserError(`the data files of the checkpoint ${prefix} are missing`);
}
