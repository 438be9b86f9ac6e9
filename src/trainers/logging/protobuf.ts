/**
 * @file The few pieces of the Protocol Buffers wire format that event files need: varints, doubles,
 * floats and length-delimited fields (protobuf.dev, "Encoding").
 */

/** A message under construction: fields in the order they are added. */
export class Message {
  readonly #parts: Uint8Array[] = [];

  /** int32, int64, enum or bool: a non-negative safe integer. */
  varint(field: number, value: number): this {
    this.#parts.push(varint(field * 8), varint(value));
    return this;
  }

  double(field: number, value: number): this {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setFloat64(0, value, true);
    this.#parts.push(varint(field * 8 + 1), bytes);
    return this;
  }

  float(field: number, value: number): this {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    this.#parts.push(varint(field * 8 + 5), bytes);
    return this;
  }

  /** A string, bytes or a message inside this one. */
  bytes(field: number, value: string | Uint8Array | Message): this {
    const bytes =
      value instanceof Message
        ? value.encode()
        : typeof value === "string"
          ? Buffer.from(value, "utf8")
          : value;
    this.#parts.push(varint(field * 8 + 2), varint(bytes.length), bytes);
    return this;
  }

  /** A packed repeated double. */
  doubles(field: number, values: readonly number[]): this {
    const bytes = new Uint8Array(8 * values.length);
    const view = new DataView(bytes.buffer);
    for (const [i, value] of values.entries()) {
      view.setFloat64(8 * i, value, true);
    }
    return this.bytes(field, bytes);
  }

  encode(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}

/** Base-128 varint of a non-negative safe integer. */
function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) | 128);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
  return Uint8Array.from(bytes);
}
