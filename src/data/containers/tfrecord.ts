/**
 * @file TFRecord files and the tf.train.Example inside. A record is its length (u64, little-endian),
 * the masked CRC-32C of the length, the payload, and the masked CRC-32C of the payload, where
 * masked(c) = rotate right(c, 15) + 0xa282ead8.
 */

const table = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let i = 0; i < 8; i++) {
    c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  }
  return c >>> 0;
});

/** CRC-32C (Castagnoli), reflected. */
export function crc32c(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) {
    c = table[(c ^ byte) & 255]! ^ (c >>> 8);
  }
  return (c ^ 0xffffffff) >>> 0;
}

export function maskedCrc(bytes: Uint8Array): number {
  const c = crc32c(bytes);
  return (((c >>> 15) | (c << 17)) + 0xa282ead8) >>> 0;
}

/** Wrap a payload as one record. */
export function frameRecord(payload: Uint8Array): Buffer {
  const head = Buffer.alloc(12);
  head.writeBigUInt64LE(BigInt(payload.length), 0);
  head.writeUInt32LE(maskedCrc(head.subarray(0, 8)), 8);
  const tail = Buffer.alloc(4);
  tail.writeUInt32LE(maskedCrc(payload), 0);
  return Buffer.concat([head, payload, tail]);
}

/** Where the records of a file begin, read through `read` so that payloads are stepped over. */
export function recordOffsets(
  read: (offset: number, length: number) => Uint8Array,
  size: number,
): { offsets: number[]; problem?: string } {
  const offsets: number[] = [];
  let at = 0;
  while (at < size) {
    const head = Buffer.from(read(at, 12));
    if (head.length < 12 || head.readUInt32LE(8) !== maskedCrc(head.subarray(0, 8))) {
      return { offsets, problem: `is damaged: no record begins at byte ${at}` };
    }
    const next = at + 16 + Number(head.readBigUInt64LE(0));
    if (next > size) {
      return { offsets, problem: `ends in the middle of record ${offsets.length}` };
    }
    offsets.push(at);
    at = next;
  }
  return { offsets };
}

/**
 * The payload of a record.
 * @param record the whole record, from its length field
 * @throws Error when a checksum does not hold
 */
export function recordPayload(record: Buffer): Buffer {
  if (record.length < 16 || record.readUInt32LE(8) !== maskedCrc(record.subarray(0, 8))) {
    throw new Error("the record's length is damaged");
  }
  const length = Number(record.readBigUInt64LE(0));
  const payload = record.subarray(12, 12 + length);
  if (
    payload.length < length ||
    record.length < length + 16 ||
    record.readUInt32LE(12 + length) !== maskedCrc(payload)
  ) {
    throw new Error("the record's payload is damaged");
  }
  return payload;
}

/** A value of a tf.train.Feature. */
export type Feature =
  | { readonly kind: "bytes"; readonly values: readonly Buffer[] }
  | { readonly kind: "floats"; readonly values: Float32Array }
  | { readonly kind: "ints"; readonly values: readonly number[] };

/** The features of a tf.train.Example (or of a SequenceExample's context, whose bytes are the same). */
export function parseExample(payload: Buffer): Map<string, Feature> {
  const features = new Map<string, Feature>();
  for (const [field, outer] of fields(payload)) {
    if (field !== 1 || typeof outer === "number") {
      continue;
    }
    for (const [inner, entry] of fields(outer)) {
      if (inner !== 1 || typeof entry === "number") {
        continue;
      }
      let key = "";
      let value: Buffer = Buffer.alloc(0);
      for (const [number, part] of fields(entry)) {
        if (number === 1 && typeof part !== "number") {
          key = part.toString("utf8");
        } else if (number === 2 && typeof part !== "number") {
          value = part;
        }
      }
      const feature = parseFeature(value);
      if (feature) {
        features.set(key, feature);
      }
    }
  }
  return features;
}

function parseFeature(bytes: Buffer): Feature | undefined {
  for (const [field, list] of fields(bytes)) {
    if (typeof list === "number") {
      continue;
    }
    const parts = [...fields(list)].filter(([number]) => number === 1).map(([, part]) => part);
    if (field === 1) {
      return { kind: "bytes", values: parts.filter((part) => typeof part !== "number") };
    }
    if (field === 2) {
      // Packed: one run of bytes; unpacked: one fixed 32-bit value each.
      const raw = Buffer.concat(parts.filter((part) => typeof part !== "number"));
      const values = Float32Array.from({ length: raw.length / 4 }, (_, i) =>
        raw.readFloatLE(i * 4),
      );
      return { kind: "floats", values };
    }
    if (field === 3) {
      const values = parts.flatMap((part) => (typeof part === "number" ? [part] : varints(part)));
      return { kind: "ints", values };
    }
  }
  return undefined;
}

/** A varint as a number, exact to 2^53; negative 64-bit values come out as two's complement says. */
function varint(bytes: Buffer, at: number): [value: number, next: number] {
  let value = 0n;
  for (let shift = 0n; ; shift += 7n, at++) {
    const byte = bytes[at];
    if (byte === undefined || shift > 63n) {
      throw new Error("a message ends in the middle of a number");
    }
    value |= BigInt(byte & 127) << shift;
    if (byte < 128) {
      return [Number(BigInt.asIntN(64, value)), at + 1];
    }
  }
}

function varints(bytes: Buffer): number[] {
  const values: number[] = [];
  for (let at = 0; at < bytes.length; ) {
    const [value, next] = varint(bytes, at);
    values.push(value);
    at = next;
  }
  return values;
}

/** The fields of a protocol buffer message. */
function* fields(bytes: Buffer): Generator<[field: number, value: Buffer | number]> {
  for (let at = 0; at < bytes.length; ) {
    const [tag, begin] = varint(bytes, at);
    const field = Math.floor(tag / 8);
    switch (tag % 8) {
      case 0: {
        const [value, next] = varint(bytes, begin);
        yield [field, value];
        at = next;
        break;
      }
      case 1:
        yield [field, bytes.subarray(begin, begin + 8)];
        at = begin + 8;
        break;
      case 2: {
        const [length, next] = varint(bytes, begin);
        if (next + length > bytes.length) {
          throw new Error("a message ends in the middle of a field");
        }
        yield [field, bytes.subarray(next, next + length)];
        at = next + length;
        break;
      }
      case 5:
        yield [field, bytes.subarray(begin, begin + 4)];
        at = begin + 4;
        break;
      default:
        throw new Error(`a message has a field of unknown kind ${tag % 8}`);
    }
  }
}
