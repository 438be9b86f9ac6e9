import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parquetReadObjects } from "hyparquet";
import sharp from "sharp";
import { describe, expect, test } from "vitest";
import { crc32c, maskedCrc32c } from "../../src/runtime/crc32c.ts";
import {
  appendMetrics,
  readMetrics,
  truncateMetrics,
  writeMetricsParquet,
} from "../../src/trainers/logging/metrics.ts";
import { formatDuration, type Output, Progress } from "../../src/trainers/logging/progress.ts";
import { EventWriter } from "../../src/trainers/logging/tensorboard.ts";
import { temporaryFolder } from "./support.ts";

describe("metrics", () => {
  const line = (stage: string, step: number, loss: number) =>
    ({ stage, step, split: "train", loss }) as const;

  test("keeps what a checkpoint vouches for, and drops a line that was cut off", () => {
    const path = join(temporaryFolder(), "metrics.jsonl");
    appendMetrics(path, line("tokenizer", 10, 3));
    appendMetrics(path, line("transformer", 10, 2));
    appendMetrics(path, line("transformer", 20, 1));
    appendFileSync(path, '{"stage":"transformer","st');
    expect(readMetrics(path)).toHaveLength(3);
    truncateMetrics(path, "transformer", 10);
    expect(readMetrics(path)).toEqual([line("tokenizer", 10, 3), line("transformer", 10, 2)]);
    truncateMetrics(path, "transformer", -1);
    expect(readFileSync(path, "utf8")).toBe(`${JSON.stringify(line("tokenizer", 10, 3))}\n`);
  });

  test("the Parquet table has a column for every metric", async () => {
    const dir = temporaryFolder();
    const path = join(dir, "metrics.jsonl");
    appendMetrics(path, line("tokenizer", 1, 0.5));
    appendMetrics(path, { ...line("tokenizer", 2, Number.NaN), mae: 7 });
    const table = join(dir, "metrics.parquet");
    writeMetricsParquet(path, table);
    const bytes = readFileSync(table);
    const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
    expect(await parquetReadObjects({ file })).toEqual([
      { stage: "tokenizer", step: 1, split: "train", loss: 0.5, mae: null },
      { stage: "tokenizer", step: 2, split: "train", loss: null, mae: 7 },
    ]);
  });
});

describe("CRC-32C", () => {
  test("equals the vectors of RFC 3720", () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
    expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  });
});

/** The records of an event file, their checksums verified. */
function readRecords(path: string): Uint8Array[] {
  const bytes = readFileSync(path);
  const records: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    expect(bytes.readUInt32LE(at + 8)).toBe(maskedCrc32c(bytes.subarray(at, at + 8)));
    const record = bytes.subarray(at + 12, at + 12 + length);
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedCrc32c(record));
    records.push(record);
    at += 16 + length;
  }
  return records;
}

/** Fields of a protobuf message: number to raw values. */
function fieldsOf(message: Uint8Array): Map<number, (Uint8Array | number)[]> {
  const fields = new Map<number, (Uint8Array | number)[]>();
  const view = new DataView(message.buffer, message.byteOffset, message.length);
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = message[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) {
        return value;
      }
    }
  };
  while (at < message.length) {
    const key = varint();
    const field = Math.floor(key / 8);
    let value: Uint8Array | number;
    switch (key % 8) {
      case 0:
        value = varint();
        break;
      case 1:
        value = view.getFloat64(at, true);
        at += 8;
        break;
      case 2: {
        const length = varint();
        value = message.subarray(at, at + length);
        at += length;
        break;
      }
      default:
        throw new Error(`wire type ${key % 8}`);
    }
    fields.set(field, [...(fields.get(field) ?? []), value]);
  }
  return fields;
}

async function writeEvents(dir: string): Promise<EventWriter> {
  const board = new EventWriter(dir, 0, () => 1_700_000_000_000);
  board.scalars(3, { "train/loss": 0.25, "train/lr": 1e-3 });
  const rgb = Buffer.alloc(4 * 6 * 3, 128);
  const png = await sharp(rgb, { raw: { width: 6, height: 4, channels: 3 } })
    .png()
    .toBuffer();
  board.image(3, "clips", { height: 4, width: 6, png });
  board.text(3, "captions", "**a red circle** moves left – é");
  board.histogram(3, "weights", [-1, 0, 0.5, 1, Number.NaN]);
  return board;
}

describe("event files", () => {
  test("are framed records of the right messages", async () => {
    const { path } = await writeEvents(temporaryFolder());
    const events = readRecords(path).map(fieldsOf);
    expect(Buffer.from(events[0]!.get(3)![0] as Uint8Array).toString()).toBe("brain.Event:2");
    expect(events[2]!.get(1)).toEqual([1_700_000_000]);
    expect(events[2]!.get(2)).toEqual([3]);
    const values = fieldsOf(events[2]!.get(5)![0] as Uint8Array).get(1) as Uint8Array[];
    expect(values.map((v) => Buffer.from(fieldsOf(v).get(1)![0] as Uint8Array).toString())).toEqual(
      ["train/loss", "train/lr"],
    );
    const histogram = fieldsOf(
      fieldsOf(fieldsOf(events[5]!.get(5)![0] as Uint8Array).get(1)![0] as Uint8Array).get(
        5,
      )![0] as Uint8Array,
    );
    expect([1, 2, 3, 4].map((field) => histogram.get(field)![0])).toEqual([-1, 1, 4, 0.5]);
  });

  test("are read by TensorBoard itself", async ({ skip }) => {
    const python = process.env["TESSERA_TEST_PYTHON"] ?? "python3";
    try {
      execFileSync(python, ["-c", "import tensorboard"], { stdio: "ignore" });
    } catch {
      skip(`the Python package tensorboard is not installed for ${python}`);
    }
    const dir = temporaryFolder();
    const board = await writeEvents(dir);
    board.scalars(4, { "train/loss": 0.125 });
    const resumed = new EventWriter(dir, 3, () => 1_700_000_100_000);
    resumed.scalars(4, { "train/loss": 0.5 });
    const script = join(dir, "read.py");
    writeFileSync(
      script,
      `import json, sys
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
acc = EventAccumulator(sys.argv[1], size_guidance={"tensors": 0})
acc.Reload()
value = lambda e: tensor_util.make_ndarray(e.tensor_proto)
text = value(acc.Tensors("captions")[0])
print(json.dumps({
  "loss": [[e.step, float(value(e))] for e in acc.Tensors("train/loss")],
  "text": text.reshape(-1)[0].decode(),
  "plugin": acc.SummaryMetadata("train/loss").plugin_data.plugin_name,
  "image": [int(x) for x in value(acc.Tensors("clips")[0])[:2]],
  "histogram": float(value(acc.Tensors("weights")[0])[:, 2].sum()),
}))`,
    );
    const output = execFileSync(python, [script, dir], { encoding: "utf8" });
    expect(JSON.parse(output)).toEqual({
      loss: [
        [3, 0.25],
        [4, 0.5],
      ],
      text: "**a red circle** moves left – é",
      plugin: "scalars",
      image: [6, 4],
      histogram: 4,
    });
  });
});

describe("progress", () => {
  test("plain lines are rare, say the rate and the time left, and end with the last unit", () => {
    const lines: string[] = [];
    const output: Output = { terminal: false, line: (text) => lines.push(text) };
    let now = 0;
    const progress = new Progress(output, () => now);
    progress.plan([
      { name: "tokenizer", total: 100 },
      { name: "evaluation", total: 2 },
    ]);
    progress.start("tokenizer", 0);
    for (let step = 1; step <= 100; step++) {
      now += 500;
      progress.update(step, "loss 1.0");
    }
    progress.start("evaluation", 0);
    now += 1000;
    progress.update(2, "probe");
    expect(lines).toHaveLength(6);
    expect(lines[0]).toBe("tokenizer 20/100  2.00/s  loss 1.0  left 40 s + later stages");
    expect(lines.at(-1)).toBe("evaluation 2/2  2.00/s  probe  left 0 s");
  });

  test("durations read well", () => {
    expect([4.4, 200, 7500].map(formatDuration)).toEqual(["4 s", "3 min 20 s", "2 h 05 min"]);
  });
});

test("a table of no metrics is not written", () => {
  const dir = temporaryFolder();
  writeMetricsParquet(join(dir, "metrics.jsonl"), join(dir, "metrics.parquet"));
  expect(existsSync(join(dir, "metrics.parquet"))).toBe(false);
});
