/** @file Reader of safetensors files of any element type and size; ../safetensors.ts writes ours. */

import { BadFile, type ByteSource } from "./bytes.ts";
import { decodeElements, elementBytes, isElement, countOf } from "./elements.ts";
import type { StoredTensor } from "./weights.ts";

/** The largest header that the format's reference reader accepts. */
const maxHeader = 100_000_000;

export function readSafetensorsFile(source: ByteSource): Map<string, StoredTensor> {
  const head = source.read(0, 8);
  const length = Number(new DataView(head.buffer, head.byteOffset).getBigUint64(0, true));
  if (length > maxHeader) {
    throw new BadFile(`its header claims ${length} bytes`);
  }
  let header: unknown;
  try {
    header = JSON.parse(Buffer.from(source.read(8, length)).toString("utf8"));
  } catch (error) {
    if (error instanceof BadFile) {
      throw error;
    }
    throw new BadFile("its header is not JSON");
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw new BadFile("its header is not an object");
  }
  const begin = 8 + length;
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(header as { [name: string]: unknown })) {
    if (name === "__metadata__") {
      continue;
    }
    const { dtype, shape, data_offsets } = (entry ?? {}) as { [key: string]: unknown };
    const offsets = numbers(data_offsets);
    const sides = numbers(shape);
    if (typeof dtype !== "string" || !sides || offsets?.length !== 2) {
      throw new BadFile(`the header's entry of "${name}" is not one of a tensor`);
    }
    const [from, to] = offsets as [number, number];
    if (!(from >= 0 && to >= from && begin + to <= source.size)) {
      throw new BadFile(`tensor "${name}" lies outside of the file: it is cut off or damaged`);
    }
    if (isElement(dtype) && countOf(sides, name) * elementBytes[dtype] !== to - from) {
      throw new BadFile(`tensor "${name}" of [${sides.join(", ")}] does not fit its place`);
    }
    tensors.set(name, {
      dtype,
      shape: sides,
      read() {
        if (!isElement(dtype)) {
          throw new BadFile(`tensor "${name}" has the unsupported type ${dtype}`);
        }
        return decodeElements(dtype, sides, source.read(begin + from, to - from), name);
      },
    });
  }
  return tensors;
}

function numbers(value: unknown): number[] | undefined {
  return Array.isArray(value) && value.every((one) => Number.isSafeInteger(one) && one >= 0)
    ? (value as number[])
    : undefined;
}
