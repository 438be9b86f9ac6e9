/**
 * @file TensorBoard event files: TFRecord framing (u64 length, its masked CRC-32C, the record, its
 * masked CRC-32C) around `tensorflow.Event` messages (event.proto, summary.proto).
 *
 * Scalars, images and text are written as tensors and image values with their plugin's name, as
 * TensorFlow 2's `tf.summary` does; histograms as `HistogramProto`, which TensorBoard converts.
 */

import { appendFileSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { maskedCrc32c } from "../../runtime/crc32c.ts";
import { Message } from "./protobuf.ts";

/** tensorflow.DataType */
const DT_FLOAT = 1;
const DT_STRING = 7;

export interface EventImage {
  readonly height: number;
  readonly width: number;
  /** The encoded PNG. */
  readonly png: Uint8Array;
}

/** Frame one record as TFRecord files do. */
export function frameRecord(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(16 + data.length);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc32c(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc32c(data), true);
  return record;
}

/**
 * Writes one event file. A resumed run opens a file of its own: TensorBoard merges the files of a
 * folder, and drops from earlier ones what the resumed run does again (`SessionLog.START`).
 */
export class EventWriter {
  readonly path: string;

  /**
   * @param dir the folder, made when missing
   * @param resumeStep steps that a checkpoint vouches for: older events of later steps are void
   * @param now milliseconds since 1970, replaced in tests
   */
  constructor(
    dir: string,
    resumeStep: number,
    readonly now: () => number = Date.now,
  ) {
    mkdirSync(dir, { recursive: true });
    const index = readdirSync(dir).filter((name) => name.startsWith("events.out.")).length;
    const seconds = String(Math.floor(now() / 1000)).padStart(10, "0");
    this.path = join(dir, `events.out.tfevents.${seconds}.tessera.${process.pid}.${index}`);
    this.#append(this.#event(0).bytes(3, "brain.Event:2"));
    // Event.session_log { status: START } voids this step and all later ones, where it is not the
    // first of the folder.
    this.#append(this.#event(resumeStep + 1).bytes(7, new Message().varint(1, 1)));
  }

  /** Several scalars of one step. Values that are not finite are written as such. */
  scalars(step: number, values: { readonly [tag: string]: number }): void {
    const summary = new Message();
    for (const [tag, value] of Object.entries(values)) {
      const tensor = new Message()
        .varint(1, DT_FLOAT)
        .bytes(2, new Message())
        .bytes(5, new Uint8Array(Float32Array.of(value).buffer));
      summary.bytes(
        1,
        new Message().bytes(1, tag).bytes(8, tensor).bytes(9, metadata("scalars", 1)),
      );
    }
    this.#append(this.#event(step).bytes(5, summary));
  }

  image(step: number, tag: string, { height, width, png }: EventImage): void {
    const image = new Message().varint(1, height).varint(2, width).varint(3, 3).bytes(4, png);
    this.#append(
      this.#event(step).bytes(
        5,
        new Message().bytes(1, new Message().bytes(1, tag).bytes(4, image)),
      ),
    );
  }

  /** @param text Markdown */
  text(step: number, tag: string, text: string): void {
    const tensor = new Message()
      .varint(1, DT_STRING)
      .bytes(2, new Message().bytes(2, new Message().varint(1, 1)))
      .bytes(8, text);
    this.#append(
      this.#event(step).bytes(
        5,
        new Message().bytes(
          1,
          new Message().bytes(1, tag).bytes(8, tensor).bytes(9, metadata("text", 2)),
        ),
      ),
    );
  }

  /** A histogram of the finite ones of `values` in equal bins. */
  histogram(step: number, tag: string, values: ArrayLike<number>, bins = 30): void {
    const histogram = histogramMessage(values, bins);
    if (histogram !== undefined) {
      const value = new Message().bytes(1, tag).bytes(5, histogram);
      this.#append(this.#event(step).bytes(5, new Message().bytes(1, value)));
    }
  }

  #event(step: number): Message {
    return new Message().double(1, this.now() / 1000).varint(2, step);
  }

  #append(event: Message): void {
    appendFileSync(this.path, frameRecord(event.encode()));
  }
}

/** SummaryMetadata { plugin_data { plugin_name }, data_class } (2 tensor would be DATA_CLASS_TENSOR). */
function metadata(plugin: string, dataClass: number): Message {
  return new Message().bytes(1, new Message().bytes(1, plugin)).varint(4, dataClass);
}

function histogramMessage(values: ArrayLike<number>, bins: number): Message | undefined {
  let [min, max, num, sum, squares] = [Infinity, -Infinity, 0, 0, 0];
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (Number.isFinite(value)) {
      min = Math.min(min, value);
      max = Math.max(max, value);
      num += 1;
      sum += value;
      squares += value * value;
    }
  }
  if (num === 0) {
    return undefined;
  }
  const width = (max - min) / bins || 1;
  const counts = Array.from({ length: bins }, () => 0);
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (Number.isFinite(value)) {
      counts[Math.min(bins - 1, Math.floor((value - min) / width))]! += 1;
    }
  }
  // bucket_limit holds the upper edge of each bin.
  const limits = counts.map((_, i) => (i === bins - 1 && max > min ? max : min + (i + 1) * width));
  return new Message()
    .double(1, min)
    .double(2, max)
    .double(3, num)
    .double(4, sum)
    .double(5, squares)
    .doubles(6, limits)
    .doubles(7, counts);
}
