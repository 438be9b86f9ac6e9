/**
 * @file Reader of PyTorch's files: the ZIP of 1.6 and later (TorchScript too) and the row of pickles
 * of earlier versions (torch/serialization.py). Tensors are found wherever they stand in the saved
 * tree, and named by the path of keys and attributes that leads there, joined by dots, which is the
 * name in `state_dict()`.
 */

import { sizeOf } from "../tensors.ts";
import { BadFile, type ByteSource, Cursor } from "./bytes.ts";
import { countOf, decodeElements, type Element, elementBytes } from "./elements.ts";
import { PickleGlobal, PickleObject, PickleReference, readPickle } from "./pickle.ts";
import type { StoredTensor } from "./weights.ts";
import type { ZipEntry } from "./zip.ts";

/** PyTorch's storages, by the name of their class. */
const storageElements: { readonly [name: string]: Element } = {
  DoubleStorage: "F64",
  FloatStorage: "F32",
  HalfStorage: "F16",
  BFloat16Storage: "BF16",
  LongStorage: "I64",
  IntStorage: "I32",
  ShortStorage: "I16",
  CharStorage: "I8",
  ByteStorage: "U8",
  BoolStorage: "BOOL",
};

/** PyTorch's dtypes, for tensors on untyped storages. */
const dtypeElements: { readonly [name: string]: Element } = {
  float64: "F64",
  float32: "F32",
  float16: "F16",
  bfloat16: "BF16",
  int64: "I64",
  int32: "I32",
  int16: "I16",
  int8: "I8",
  uint8: "U8",
  bool: "BOOL",
};

/** Names under which trainers wrap a state; the wrapping is left out of tensors' names. */
const wrappers = [
  "state_dict",
  "model_state_dict",
  "model",
  "module",
  "net",
  "params_ema",
  "params",
];

/** A tensor before its bytes are read. */
interface Found {
  readonly key: string;
  /** Undefined for a type that cannot be read. */
  readonly element: Element | undefined;
  readonly typeName: string;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly stride: readonly number[];
}

/** Gives the raw bytes of a storage by its key. */
type StorageBytes = (key: string) => Uint8Array;

/** Whether a ZIP is one of PyTorch's: it holds data.pkl in some folder. */
export function isTorchZip(entries: ReadonlyMap<string, ZipEntry>): boolean {
  return pickleEntry(entries) !== undefined;
}

function pickleEntry(entries: ReadonlyMap<string, ZipEntry>): ZipEntry | undefined {
  return [...entries.values()].find(({ name }) => /^[^/]+\/data\.pkl$/.test(name));
}

export function readTorchZip(entries: ReadonlyMap<string, ZipEntry>): Map<string, StoredTensor> {
  const pickle = pickleEntry(entries)!;
  const folder = pickle.name.slice(0, -"data.pkl".length);
  const order = entries.get(`${folder}byteorder`);
  if (order && Buffer.from(order.read()).toString("latin1") !== "little") {
    throw new BadFile("it was written on a big-endian machine");
  }
  const root = readPickle(new Cursor(pickle.read()));
  return tensorsOf(root, (key) => {
    const entry = entries.get(`${folder}data/${key}`);
    if (!entry) {
      throw new BadFile(`the storage data/${key} is missing`);
    }
    return entry.read();
  });
}

const legacyMagic = 0x1950a86a20f9469cfc6cn;

/** Whether bytes begin as a legacy file does: a pickle of a large integer. */
export function isLegacyTorch(head: Uint8Array): boolean {
  return head[0] === 0x80 && head[1]! <= 5 && head[2] === 0x8a && head[3] === 10;
}

export function readLegacyTorch(source: ByteSource): Map<string, StoredTensor> {
  const cursor = new Cursor(source.read(0, source.size));
  if (readPickle(cursor) !== legacyMagic || readPickle(cursor) !== 1001) {
    throw new BadFile("it does not begin as PyTorch's legacy files do");
  }
  const machine = readPickle(cursor);
  if (machine instanceof Map && machine.get("little_endian") === false) {
    throw new BadFile("it was written on a big-endian machine");
  }
  const root = readPickle(cursor);
  const keys = readPickle(cursor);
  if (!Array.isArray(keys)) {
    throw new BadFile("its list of storages is missing");
  }
  const sizes = new Map<string, Element>();
  visitReferences(root, (reference) => {
    const { key, element } = storageOf(reference);
    if (element) {
      sizes.set(key, element);
    }
  });
  const parts = new Map<string, Uint8Array>();
  for (const key of keys) {
    const element = sizes.get(String(key));
    if (!element) {
      throw new BadFile(`the type of storage ${String(key)} is unknown`);
    }
    parts.set(String(key), cursor.take(cursor.u64() * elementBytes[element]));
  }
  return tensorsOf(root, (key) => {
    const part = parts.get(key);
    if (!part) {
      throw new BadFile(`the storage ${key} is missing`);
    }
    return part;
  });
}

/** The parts of a persistent id ("storage", type, key, device, count, view). */
function storageOf(reference: PickleReference): {
  key: string;
  element: Element | undefined;
  typeName: string;
} {
  const id = reference.id;
  if (!Array.isArray(id) || id[0] !== "storage") {
    throw new BadFile("a persistent id is not one of a storage");
  }
  if (Array.isArray(id[5])) {
    throw new BadFile("a storage is a view of another, which PyTorch has not written since 0.4");
  }
  const type = id[1] instanceof PickleGlobal ? id[1].name : String(id[1]);
  const typeName = type.split(".").at(-1)!;
  return { key: String(id[2]), element: storageElements[typeName], typeName };
}

/** Every storage that a tree refers to. */
function visitReferences(root: unknown, visit: (reference: PickleReference) => void): void {
  const seen = new Set<unknown>();
  const waiting: unknown[] = [root];
  while (waiting.length > 0) {
    const value = waiting.pop();
    if (typeof value !== "object" || value === null || seen.has(value)) {
      continue;
    }
    seen.add(value);
    if (value instanceof PickleReference) {
      visit(value);
    } else if (Array.isArray(value)) {
      for (const one of value) {
        waiting.push(one);
      }
    } else if (value instanceof Map) {
      waiting.push(...value.keys(), ...value.values());
    } else if (value instanceof PickleObject) {
      waiting.push(value.callee, value.args, value.state, value.items, value.pairs);
    }
  }
}

/** All tensors of a tree by their path. */
function tensorsOf(root: unknown, bytesOf: StorageBytes): Map<string, StoredTensor> {
  const found = new Map<string, Found>();
  walk(root, "", found, new Set());
  if (found.size === 0) {
    throw new BadFile("there is no tensor in it");
  }
  return new Map(
    Array.from(unwrapped(found), ([name, tensor]) => [name, stored(name, tensor, bytesOf)]),
  );
}

function walk(value: unknown, path: string, found: Map<string, Found>, above: Set<unknown>): void {
  if (typeof value !== "object" || value === null || above.has(value) || above.size > 200) {
    return;
  }
  const tensor = asTensor(value);
  if (tensor) {
    found.set(path, tensor);
    return;
  }
  above.add(value);
  const inside = (key: unknown, part: unknown): void =>
    walk(part, path === "" ? String(key) : `${path}.${String(key)}`, found, above);
  if (value instanceof Map) {
    for (const [key, part] of value) {
      if (typeof key === "string" || typeof key === "number") {
        inside(key, part);
      }
    }
  } else if (Array.isArray(value)) {
    value.forEach((part, i) => inside(i, part));
  } else if (value instanceof PickleObject) {
    const { state } = value;
    if (state instanceof Map && state.get("_parameters") instanceof Map) {
      // A pickled nn.Module: its three dicts hold what state_dict() would name without them.
      for (const part of ["_parameters", "_buffers", "_modules"]) {
        walk(state.get(part), path, found, above);
      }
    } else {
      walk(state, path, found, above);
      walk(value.pairs, path, found, above);
    }
  }
  above.delete(value);
}

/** A call that rebuilds a tensor; undefined for any other value. */
function asTensor(value: object): Found | undefined {
  if (!(value instanceof PickleObject) || !(value.callee instanceof PickleGlobal)) {
    return undefined;
  }
  const { args } = value;
  switch (value.callee.name) {
    case "torch._utils._rebuild_parameter":
    case "torch._utils._rebuild_parameter_with_state":
      return typeof args[0] === "object" && args[0] !== null ? asTensor(args[0]) : undefined;
    case "torch._tensor._rebuild_from_type_v2":
      return asTensor(new PickleObject(args[0], Array.isArray(args[2]) ? args[2] : []));
    case "torch._utils._rebuild_tensor":
    case "torch._utils._rebuild_tensor_v2":
      return rebuilt(args, undefined);
    case "torch._utils._rebuild_tensor_v3":
      return rebuilt(args, args[6]);
    default:
      return undefined;
  }
}

function rebuilt(args: readonly unknown[], dtype: unknown): Found | undefined {
  const [storage, offset, shape, stride] = args;
  if (!(storage instanceof PickleReference)) {
    return undefined;
  }
  const { key, element, typeName } = storageOf(storage);
  const wholes = (list: unknown): list is number[] =>
    Array.isArray(list) && list.every((one) => Number.isSafeInteger(one) && (one as number) >= 0);
  if (!wholes([offset]) || !wholes(shape) || !wholes(stride) || stride.length !== shape.length) {
    throw new BadFile("a tensor's shape or place is not one of whole numbers");
  }
  const named = dtype instanceof PickleGlobal ? dtype.name.split(".").at(-1)! : undefined;
  return {
    key,
    element: named === undefined ? element : dtypeElements[named],
    typeName: named ?? typeName,
    offset: offset as number,
    shape,
    stride,
  };
}

/** Names without a wrapping that all tensors share, e.g. "state_dict.". */
function unwrapped(found: Map<string, Found>): Map<string, Found> {
  for (;;) {
    const [first] = found.keys();
    const wrapper = wrappers.find((name) => first?.startsWith(`${name}.`));
    const prefix = `${wrapper}.`;
    if (wrapper === undefined || ![...found.keys()].every((name) => name.startsWith(prefix))) {
      return found;
    }
    found = new Map(Array.from(found, ([name, tensor]) => [name.slice(prefix.length), tensor]));
  }
}

function stored(name: string, tensor: Found, bytesOf: StorageBytes): StoredTensor {
  const { element, shape, stride, offset, key, typeName } = tensor;
  return {
    dtype: element ?? typeName,
    shape,
    read() {
      if (!element) {
        throw new BadFile(`tensor "${name}" has the unsupported type ${typeName}`);
      }
      const size = elementBytes[element];
      const count = countOf(shape, name);
      const bytes = bytesOf(key);
      const last = shape.reduce((at, side, axis) => at + (side - 1) * stride[axis]!, offset);
      if (count > 0 && (last + 1) * size > bytes.length) {
        throw new BadFile(`tensor "${name}" reaches beyond the end of its storage`);
      }
      const from = offset * size;
      const plain = isContiguous(shape, stride);
      const own = plain
        ? bytes.subarray(from, from + count * size)
        : gather(bytes, size, tensor, count);
      return decodeElements(element, shape, own, name);
    },
  };
}

function isContiguous(shape: readonly number[], stride: readonly number[]): boolean {
  return shape.every(
    (side, axis) => side === 1 || side === 0 || stride[axis] === sizeOf(shape.slice(axis + 1)),
  );
}

/** The elements of a strided tensor in row-major order. */
function gather(
  bytes: Uint8Array,
  size: number,
  { shape, stride, offset }: Found,
  count: number,
): Uint8Array {
  // Strides of 0 could make a small file claim any number of values.
  if (count * size > 64 * bytes.length + 2 ** 20) {
    throw new BadFile("a tensor repeats its storage too often to be one of weights");
  }
  const out = new Uint8Array(count * size);
  for (let i = 0; i < count; i++) {
    let rest = i;
    let at = offset;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += (rest % shape[axis]!) * stride[axis]!;
      rest = Math.floor(rest / shape[axis]!);
    }
    out.set(bytes.subarray(at * size, (at + 1) * size), i * size);
  }
  return out;
}
