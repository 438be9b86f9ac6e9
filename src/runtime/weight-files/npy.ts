/** @file Reader of NumPy's arrays (numpy/lib/format.py, versions 1 to 3): .npy, and .npz through ZIP. */

import { BadFile, Cursor } from "./bytes.ts";
import { countOf, decodeElements, type Element, elementBytes } from "./elements.ts";
import { permuted, type StoredTensor } from "./weights.ts";
import { type HostTensor, sizeOf } from "../tensors.ts";

const kinds: { readonly [descr: string]: Element } = {
  "<f8": "F64",
  "<f4": "F32",
  "<f2": "F16",
  "<i8": "I64",
  "<i4": "I32",
  "<i2": "I16",
  "|i1": "I8",
  "|u1": "U8",
  "|b1": "BOOL",
};

export function isNpy(head: Uint8Array): boolean {
  return head[0] === 0x93 && Buffer.from(head.subarray(1, 6)).toString("latin1") === "NUMPY";
}

export function readNpy(bytes: Uint8Array, name: string): StoredTensor {
  const cursor = new Cursor(bytes);
  if (!isNpy(cursor.take(6))) {
    throw new BadFile(`the array "${name}" does not begin as NumPy's do`);
  }
  const major = cursor.u8();
  cursor.u8();
  const header = cursor.text(major === 1 ? cursor.u16() : cursor.u32());
  const descr = /'descr': *'([^']+)'/.exec(header)?.[1];
  const order = /'fortran_order': *(True|False)/.exec(header)?.[1];
  const sides = /'shape': *\(([\d, ]*)\)/.exec(header)?.[1];
  if (descr === undefined || order === undefined || sides === undefined) {
    throw new BadFile(`the header of the array "${name}" is not readable`);
  }
  const shape = sides
    .split(",")
    .map((side) => side.trim())
    .filter((side) => side !== "")
    .map(Number);
  const element = kinds[descr];
  const raw = cursor.take(bytes.length - cursor.at);
  if (element && countOf(shape, name) * elementBytes[element] !== raw.length) {
    throw new BadFile(`the array "${name}" of [${shape.join(", ")}] has ${raw.length} bytes`);
  }
  return {
    dtype: element ?? descr,
    shape,
    read() {
      if (!element) {
        throw new BadFile(`the array "${name}" has the unsupported type ${descr}`);
      }
      const reversed = shape.toReversed();
      const fortran = order === "True" && shape.length > 1;
      const tensor = decodeElements(element, fortran ? reversed : shape, raw, name);
      return fortran ? toRowMajor(tensor, shape, name) : tensor;
    },
  };
}

/** Fortran's order is the row-major order of the reversed axes. */
function toRowMajor(tensor: HostTensor, shape: readonly number[], name: string): HostTensor {
  if (!(tensor.data instanceof Float32Array)) {
    throw new BadFile(`the array "${name}" holds integers in Fortran's order`);
  }
  const perm = shape.map((_, axis) => shape.length - 1 - axis);
  const data = permuted(tensor.data, shape.toReversed(), perm);
  return { dtype: "float32", shape, data: data.subarray(0, sizeOf(shape)) };
}
