/**
 * @file Features of real clips, kept between runs: the network that gives them costs more than all
 * else in an evaluation, and every run of a sweep is judged on the same clips. A file holds the
 * features of one network behind one preprocessing, a record a clip, named by the SHA-256 of its
 * pixels. Records are appended whole with a checksum of their own, so a killed evaluation goes on
 * from the clips it has done, and several processes may write one file.
 */

import { createHash } from "node:crypto";
import { appendFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import canonicalize from "canonicalize";
import { crc32c } from "../../runtime/crc32c.ts";

/** Bytes that name a clip. */
const keyLength = 32;

/** The folder of all such files: $TESSERA_CACHE, or the user's cache folder. */
export function cacheFolder(): string {
  const own = process.env["TESSERA_CACHE"];
  if (own !== undefined && own !== "") {
    return own;
  }
  const base = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  return join(base, "tessera");
}

export class FeatureCache {
  readonly path: string;
  #known: Map<string, Float32Array> | undefined;

  /**
   * @param width values of one clip
   * @param identity all that the features depend on besides the pixels
   */
  constructor(
    readonly width: number,
    identity: { readonly [choice: string]: unknown },
  ) {
    const key = createHash("sha256")
      .update(canonicalize({ width, ...identity })!)
      .digest("hex");
    this.path = join(cacheFolder(), "features", `${key.slice(0, 16)}.bin`);
  }

  /** The name of a clip's pixels. */
  static keyOf(pixels: Uint8Array): string {
    return createHash("sha256").update(pixels).digest("hex");
  }

  get(key: string): Float32Array | undefined {
    this.#known ??= this.#read();
    return this.#known.get(key);
  }

  /** Keep features; a full disk or a folder without rights only costs the next run its time. */
  put(key: string, features: Float32Array): void {
    this.#known ??= this.#read();
    if (this.#known.has(key)) {
      return;
    }
    const own = features.slice();
    this.#known.set(key, own);
    const record = Buffer.alloc(keyLength + 4 * this.width + 4);
    record.set(Buffer.from(key, "hex"), 0);
    record.set(new Uint8Array(own.buffer), keyLength);
    record.writeUInt32LE(crc32c(record.subarray(0, -4)), record.length - 4);
    try {
      mkdirSync(join(cacheFolder(), "features"), { recursive: true });
      appendFileSync(this.path, record);
    } catch {
      // Nothing depends on it.
    }
  }

  #read(): Map<string, Float32Array> {
    const known = new Map<string, Float32Array>();
    if (!existsSync(this.path)) {
      return known;
    }
    const bytes = readFileSync(this.path);
    const size = keyLength + 4 * this.width + 4;
    let at = 0;
    while (at + size <= bytes.length) {
      const record = bytes.subarray(at, at + size);
      if (record.readUInt32LE(size - 4) !== crc32c(record.subarray(0, -4))) {
        at += 1; // a record that was cut off: look for the next whole one
        continue;
      }
      const values = new Float32Array(this.width);
      new Uint8Array(values.buffer).set(record.subarray(keyLength, size - 4));
      known.set(record.subarray(0, keyLength).toString("hex"), values);
      at += size;
    }
    return known;
  }
}
