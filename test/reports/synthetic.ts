/** @file A run folder made up for tests: every file that a finished run has, small and with hostile names. */

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  Table,
  tableToIPC,
  vectorFromArray,
  FixedSizeList,
  Field,
  Int32,
  Schema,
} from "apache-arrow";
import sharp from "sharp";
import { protocolHash, type Score } from "../../src/eval/suite.ts";
import { Random } from "../../src/runtime/random.ts";

/** Write the folder below `root`; returns its path. */
export async function syntheticRun(root: string): Promise<string> {
  const dir = join(root, "demo", "0123456789ab-s7");
  for (const folder of ["samples/reconstruction", "tokens"]) {
    mkdirSync(join(dir, folder), { recursive: true });
  }
  const put = (name: string, data: string | Uint8Array): void =>
    writeFileSync(join(dir, name), data);
  const config = {
    name: "demo <b>&amp;</b>",
    seed: 7,
    dataset: { type: "moving-shapes", frames: 9, height: 32, width: 32 },
    tokenizer: { type: "magvit2" },
    objective: { type: "masked" },
    device: { type: "cpu" },
  };
  put("config.json", JSON.stringify(config));
  put("config.yaml", "name: demo\nseed: 7\ndataset:\n  type: moving-shapes\n");
  put("status.json", JSON.stringify({ state: "finished", stage: "evaluation", step: 0 }));
  put(
    "provenance.json",
    JSON.stringify({
      git: { commit: "c0ffee0123456789", branch: "main", dirty: true },
      node: "v20.20.2",
      command: "tessera run demo.yaml",
      packages: { yaml: "2.9.1" },
    }),
  );
  put("metrics.jsonl", `${metricLines().join("\n")}\n{"stage":"transformer","st`);
  put("scores.json", JSON.stringify({ scores: demoScores() }));
  put("tokens/validation.arrow", tokenCache());
  put("samples/reconstruction-00.png", await picture(1));
  put("samples/reconstruction/worst.png", await picture(3));
  put("samples/generated-00.gif", await animation());
  put("samples/clip.mkv", new Uint8Array(5000));
  return dir;
}

function metricLines(): string[] {
  const random = new Random(0, "test/metrics");
  const lines: object[] = [];
  for (let step = 1; step <= 600; step++) {
    const loss = 0.02 + Math.exp(-step / 60) + 0.01 * random.normal();
    lines.push({
      stage: "tokenizer",
      step,
      split: "train",
      loss,
      recon: Math.max(0.0004, 0.5 * Math.exp(-step / 90)),
      lr: 1e-3 * (1 - step / 600),
      codes_used: Math.min(250, step * 3),
    });
    if (step % 100 === 0) {
      const value = loss * 1.1;
      lines.push({ stage: "tokenizer", step, split: "validation", loss: value, recon: loss / 2 });
    }
  }
  for (let step = 10; step <= 400; step += 10) {
    const loss = 2 + 3.5 * Math.exp(-step / 100) + 0.05 * random.normal();
    lines.push({ stage: "transformer", step, split: "train", loss, accuracy: 1 - loss / 6 });
    if (step % 50 === 0) {
      lines.push({ stage: "transformer", step, split: "validation", loss: loss + 0.1 });
    }
  }
  return lines.map((line) => JSON.stringify(line));
}

/** A few scores of three suites. */
export function demoScores(): Score[] {
  const make = (name: string, value: number, unit: string, better: Score["better"]): Score => {
    const protocol = {
      name: `${name.split("/")[1]!}:demo`,
      split: "validation",
      clips: 256,
      range: { kind: "uint8-rounded", max: 255 },
    };
    return { name, value, unit, better, protocol, protocolHash: protocolHash(protocol), n: 256 };
  };
  return [
    make("reconstruction/psnr", 27.314, "dB", "higher"),
    make("reconstruction/ssim", 0.8912, "", "higher"),
    make("codebook/usage", 97.65, "%", "higher"),
    make("codebook/dead", 6, "codes", "lower"),
    { ...make("probe/top1", 61.2, "%", "higher"), std: 1.4 },
    make("probe/<script>alert(1)</script>", 12.5, "%", "none"),
  ];
}

function tokenCache(): Uint8Array {
  const random = new Random(0, "test/tokens");
  const type = new FixedSizeList(48, new Field("item", new Int32(), false));
  const rows = Array.from({ length: 40 }, () =>
    Array.from({ length: 48 }, () => Math.floor(256 * random.uniform() ** 3)),
  );
  const ids = vectorFromArray(rows, type);
  const schema = new Schema([new Field("ids", type, false)], new Map([["factors", "[256]"]]));
  return tableToIPC(new Table(schema, { ids }), "file");
}

async function picture(rows: number): Promise<Uint8Array> {
  const width = 96;
  const height = 32 * rows;
  const pixels = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 7) % 251);
  return sharp(pixels, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

async function animation(): Promise<Uint8Array> {
  const frames = Array.from({ length: 4 }, (_, k) =>
    Uint8Array.from({ length: 32 * 32 * 3 }, (_, i) => (i * (k + 3)) % 251),
  );
  return sharp(Buffer.concat(frames), {
    raw: { width: 32, height: 128, channels: 3, pageHeight: 32 },
  })
    .gif({ delay: [100, 100, 100, 100], loop: 0 })
    .toBuffer();
}
