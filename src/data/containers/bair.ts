/**
 * @file Records of BAIR robot pushing (Ebert et al. 2017, softmotion30_44k): 30 frames of 64×64 raw
 * RGB (not JPEG) from two cameras, with four numbers of action and three of the arm's place a frame.
 */

import { closeSync, openSync, readSync } from "node:fs";
import { MediaError } from "../probe.ts";
import type { RecordSource } from "../source.ts";
import { parseExample, recordPayload } from "./tfrecord.ts";

export interface BairRecord {
  /** RGB bytes [H, W, 3] a frame. */
  readonly images: readonly Buffer[];
  /** By name: a row of numbers a frame. */
  readonly signals: {
    readonly action: readonly Float32Array[];
    readonly endeffector_pos: readonly Float32Array[];
  };
}

/** @throws MediaError when the record is damaged or holds something else */
export function readBairRecord(source: RecordSource): BairRecord {
  const { camera, frames, height, width } = source;
  let features: ReturnType<typeof parseExample>;
  try {
    features = parseExample(recordPayload(readRecord(source)));
  } catch (error) {
    throw new MediaError(`is damaged: ${(error as Error).message}`);
  }
  const rows = (name: string): Float32Array[] =>
    Array.from({ length: frames }, (_, t) => {
      const feature = features.get(`${t}/${name}`);
      return feature?.kind === "floats" ? feature.values : new Float32Array(0);
    });
  const images = Array.from({ length: frames }, (_, t) => {
    const feature = features.get(`${t}/${camera}/encoded`);
    const image = feature?.kind === "bytes" ? feature.values[0] : undefined;
    if (!image) {
      throw new MediaError(`has no frame ${t} of ${camera}`);
    }
    if (image.length !== height * width * 3) {
      throw new MediaError(`frame ${t} has ${image.length} bytes, expected ${height * width * 3}`);
    }
    return Buffer.from(image);
  });
  return { images, signals: { action: rows("action"), endeffector_pos: rows("endeffector_pos") } };
}

function readRecord({ file, offset }: RecordSource): Buffer {
  const opened = openSync(file, "r");
  try {
    const head = Buffer.alloc(8);
    readSync(opened, head, 0, 8, offset);
    const length = Number(head.readBigUInt64LE(0)) + 16;
    const record = Buffer.alloc(Math.min(length, 1 << 28)); // a damaged length must not take all memory
    const read = readSync(opened, record, 0, record.length, offset);
    return record.subarray(0, read);
  } finally {
    closeSync(opened);
  }
}
