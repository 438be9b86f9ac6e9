/**
 * @file The file that `tessera compress` writes (`.tsrv`: Tessera video): what the decoder must know,
 * then the coded tokens. Every byte counts at low rates, so the header takes about 40.
 *
 * ```text
 * "TSRV"  version 1   code   tokenizer's hash (8 bytes)  [prior's hash (8 bytes)]
 * frames  height  width  (LEB128)   frames a second (float32)
 * CRC-32 of the sub-ids   length of the coded tokens (LEB128)   the coded tokens
 * CRC-32 of everything before
 * ```
 */

import { UserError } from "../../config/errors.ts";
import { ByteReader, ByteWriter, checksum, damaged } from "./bytes.ts";
import { type CodeName, codeNames } from "./token-codes.ts";

const MAGIC = new TextEncoder().encode("TSRV");
const VERSION = 1;
const HASH_BYTES = 8;

export interface Bitstream {
  readonly code: CodeName;
  /** 16 hex digits: the tokenizer's weights, grid and clip. */
  readonly tokenizer: string;
  /** 16 hex digits: the transformer's weights and its order of coding; with code `prior` only. */
  readonly prior?: string;
  /** The video as it was before padding to whole clips. */
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  readonly fps: number;
  /** CRC-32 of the sub-ids as little-endian int32. */
  readonly idsChecksum: number;
  readonly payload: Uint8Array;
}

const fromHex = (hex: string): Uint8Array => {
  const bytes = Uint8Array.from(Buffer.from(hex, "hex"));
  if (bytes.length !== HASH_BYTES) {
    throw new RangeError(`a hash has ${HASH_BYTES * 2} hex digits, got ${JSON.stringify(hex)}`);
  }
  return bytes;
};
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

export function writeBitstream(stream: Bitstream): Uint8Array {
  const out = new ByteWriter();
  out.bytes(MAGIC);
  out.byte(VERSION);
  out.byte(codeNames.indexOf(stream.code));
  out.bytes(fromHex(stream.tokenizer));
  if (stream.code === "prior") {
    out.bytes(fromHex(stream.prior!));
  }
  out.number(stream.frames);
  out.number(stream.height);
  out.number(stream.width);
  out.float32(stream.fps);
  out.uint32(stream.idsChecksum);
  out.number(stream.payload.length);
  out.bytes(stream.payload);
  out.uint32(checksum(out.finish()));
  return out.finish();
}

/**
 * Read a file's bytes.
 * @param name the file, for messages
 * @throws UserError when it is another kind of file, of a later version, cut short or changed
 */
export function readBitstream(bytes: Uint8Array, name: string): Bitstream {
  if (bytes.length < MAGIC.length || !MAGIC.every((byte, i) => bytes[i] === byte)) {
    throw new UserError(
      `${name} is not a Tessera video: it does not begin with "TSRV"`,
      "give a file that `tessera compress` wrote",
    );
  }
  const reader = new ByteReader(bytes.subarray(0, Math.max(0, bytes.length - 4)), name);
  reader.bytes(MAGIC.length);
  const version = reader.byte();
  if (version !== VERSION) {
    throw new UserError(
      `${name} has version ${version} of the format, this program reads version ${VERSION}`,
      "use the version of Tessera that wrote it",
    );
  }
  const expected = new ByteReader(bytes.subarray(bytes.length - 4), name).uint32();
  if (expected !== checksum(bytes.subarray(0, bytes.length - 4))) {
    throw damaged(name, "does not have the checksum that it was written with");
  }
  const code = codeNames[reader.byte()];
  if (code === undefined) {
    throw damaged(name, "names a code that does not exist");
  }
  const tokenizer = toHex(reader.bytes(HASH_BYTES));
  const prior = code === "prior" ? { prior: toHex(reader.bytes(HASH_BYTES)) } : {};
  const [frames, height, width] = [reader.number(), reader.number(), reader.number()];
  const fps = reader.float32();
  const idsChecksum = reader.uint32();
  const payload = reader.bytes(reader.number()).slice();
  if (reader.left > 0 || frames < 1 || height < 1 || width < 1 || !(fps >= 0.001)) {
    throw damaged(name, "has a header that cannot be");
  }
  return { code, tokenizer, ...prior, frames, height, width, fps, idsChecksum, payload };
}

/** CRC-32 of sub-ids, the same on every machine. */
export function idsChecksum(ids: Int32Array): number {
  const bytes = new Uint8Array(ids.length * 4);
  const view = new DataView(bytes.buffer);
  ids.forEach((id, i) => view.setInt32(i * 4, id, true));
  return checksum(bytes);
}
