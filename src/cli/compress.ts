/** @file `tessera compress` and `tessera decompress`: a trained tokenizer as a video codec. */

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type Command, Option } from "commander";
import { UserError } from "../config/errors.ts";
import type { Frames } from "../data/image.ts";
import type { CodeName } from "../eval/compression/token-codes.ts";
import { integer } from "./options.ts";
import { print, say, table } from "./output.ts";

interface CompressOptions {
  readonly out?: string;
  readonly code: CodeName | "best";
  readonly size?: { readonly height: number; readonly width: number };
  readonly batch: number;
  readonly verify: boolean;
}

interface DecompressOptions {
  readonly out?: string;
  readonly batch: number;
  readonly tokensOnly?: boolean;
}

const codes = ["best", "uniform", "static", "adaptive", "prior"] as const;

export function addCompress(program: Command): void {
  program
    .command("compress")
    .description("code a video with a run's tokenizer into a small file")
    .argument("<run>", "a run folder whose training has ended")
    .argument("<video>", "a video file (mp4, webm, mkv, avi, mov, gif, y4m, ...)")
    .option("--out <file>", "where to write; the video's name with .tsrv when left out")
    .addOption(
      new Option(
        "--code <code>",
        "how tokens become bits: uniform (log2 K each), static (a table in front), adaptive (learned on the way), prior (the run's transformer); best tries all",
      )
        .choices(codes)
        .default("best"),
    )
    .option("--size <HxW>", "scale to cover this size first, e.g. 360x640", sizeOf)
    .option("--batch <clips>", "clips at once; the decoder of code prior needs the same", integer(1), 8) // biome-ignore format: one line
    .option("--no-verify", "do not decode the file in another process to check it")
    .addHelpText(
      "after",
      `
The video is cut into clips of the size that the tokenizer was trained on. The size printed is the
file's; bits a pixel are those of the whole file over all pixels of the video. The file names the
run's weights by hash and holds checksums, so a wrong run or a damaged byte is told, never shown.

Examples:
  tessera compress results/quickstart/<hash>-s0 clip.mp4
  tessera compress RUN clip.mov --size 128x128 --code adaptive --out small.tsrv
  tessera decompress RUN small.tsrv --out back.mp4`,
    )
    .action(compress);
  program
    .command("decompress")
    .description("decode a file that `tessera compress` wrote")
    .argument("<run>", "the run folder that it was compressed with")
    .argument("<file>", "the .tsrv file")
    .option("--out <video>", "mp4, mkv (lossless), gif, y4m; the file's name with .mkv when left out") // biome-ignore format: one line
    .option("--batch <clips>", "as it was compressed with", integer(1), 8)
    .option("--tokens-only", "decode and check the tokens, print their hash, write nothing")
    .action(decompress);
}

function sizeOf(text: string): { height: number; width: number } {
  const found = /^(\d+)[x×](\d+)$/.exec(text);
  const [height, width] = [Number(found?.[1]), Number(found?.[2])];
  if (!found || height < 1 || width < 1) {
    throw new UserError(`--size ${text}: expected HEIGHTxWIDTH`, "e.g. --size 360x640");
  }
  return { height, width };
}

/** A run's codec, open. */
async function openCodec(dir: string, batch: number) {
  const [{ openRun, readRunConfig }, { TokenCodec }] = await Promise.all([
    import("../trainers/open-run.ts"),
    import("../eval/compression/codec.ts"),
  ]);
  readRunConfig(dir); // says so when this is no run folder
  const run = await openRun(dir, { warn: say });
  let shown = 0;
  const onProgress = (what: string, clips: number, total: number | undefined): void => {
    if (Date.now() - shown > 2000) {
      shown = Date.now();
      say(`${what} ${clips}${total === undefined ? "" : ` of ${total}`} clips`);
    }
  };
  const { device, tokenizer, objective } = run;
  const codec = new TokenCodec({
    device,
    tokenizer,
    batch,
    onProgress,
    ...(objective && { objective }),
  });
  return { run, codec };
}

async function compress(dir: string, video: string, options: CompressOptions): Promise<void> {
  const [{ openFrames }, { writeBitstream }, { writeFileAtomic }] = await Promise.all([
    import("../data/frames.ts"),
    import("../eval/compression/bitstream.ts"),
    import("../runtime/files.ts"),
  ]);
  checkFile(video);
  const out = options.out ?? `${video.slice(0, video.length - extname(video).length)}.tsrv`;
  const source = await openFrames(video, options.size);
  const { run, codec } = await openCodec(dir, options.batch);
  try {
    const started = performance.now();
    const tokens = await codec.tokenize(source.spans(run.tokenizer.clip.frames), source);
    const seconds = (performance.now() - started) / 1000;
    const wanted = options.code === "best" ? codec.codes : [options.code];
    const files: { code: CodeName; bytes: Uint8Array; seconds: number }[] = [];
    for (const code of wanted) {
      const from = performance.now();
      const bytes = writeBitstream(await codec.pack(tokens, code));
      files.push({ code, bytes, seconds: (performance.now() - from) / 1000 });
    }
    const best = files.reduce((a, b) => (b.bytes.length < a.bytes.length ? b : a));
    writeFileAtomic(out, best.bytes);
    const pixels = tokens.frames * tokens.height * tokens.width;
    print(
      `${video}: ${tokens.frames} frames of ${tokens.height}x${tokens.width}, ${tokens.ids.length / run.tokenizer.factors.length} tokens`,
    );
    const kbps = (bytes: number) => ((bytes * 8 * tokens.fps) / tokens.frames / 1000).toFixed(2);
    print(
      table(
        [
          ["", "code", "bytes", "bits/pixel", "kbit/s", "seconds"],
          ...files.map(({ code, bytes, seconds: own }) => [
            code === best.code ? "*" : "",
            code,
            String(bytes.length),
            ((bytes.length * 8) / pixels).toFixed(5),
            kbps(bytes.length),
            (seconds + own).toFixed(2),
          ]),
        ],
        [2, 3, 4, 5],
      ),
    );
    if (options.verify) {
      await verify(dir, out, options.batch, tokens.ids);
    }
    print(out);
  } finally {
    source.close();
    await run.close();
  }
}

function checkFile(path: string): void {
  if (!existsSync(path) || !statSync(path).isFile()) {
    throw new UserError(`there is no file ${path}`, "give the path of a video file");
  }
}

const hashOf = (ids: Int32Array): string =>
  createHash("sha256")
    .update(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength))
    .digest("hex");

/** Decode the written file in a process of its own, which knows nothing but the run and the file. */
async function verify(dir: string, file: string, batch: number, ids: Int32Array): Promise<void> {
  const main = fileURLToPath(new URL(`./main${extname(import.meta.url)}`, import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...process.execArgv,
    main,
    "decompress",
    dir,
    file,
    "--tokens-only",
    "--batch",
    String(batch),
  ]);
  if (!stdout.includes(hashOf(ids))) {
    throw new Error(`${file} does not decode to the tokens that were coded: this is a bug`);
  }
  print("verified: another process decodes the same tokens");
}

async function decompress(dir: string, file: string, options: DecompressOptions): Promise<void> {
  const { readBitstream } = await import("../eval/compression/bitstream.ts");
  checkFile(file);
  const stream = readBitstream(readFileSync(file), file);
  const out = options.out ?? `${file.replace(/\.tsrv$/, "")}.mkv`;
  const write = options.tokensOnly ? undefined : await writerOf(out);
  const { run, codec } = await openCodec(dir, options.batch);
  try {
    const video = await codec.unpack(stream);
    if (!write) {
      print(`tokens sha256 ${hashOf(video.ids)}`);
      return;
    }
    const { frames, height, width } = video;
    const data = new Uint8Array(frames * height * width * 3);
    let at = 0;
    for await (const span of codec.frames(video)) {
      data.set(span, at);
      at += span.length;
    }
    await write(out, { data, frames, height, width }, video.fps);
    print(
      `${frames} frames of ${height}x${width}, pixels sha256 ${createHash("sha256").update(data).digest("hex")}`,
    );
    print(out);
  } finally {
    await run.close();
  }
}

/** How to write a video of this extension; refused before anything is computed. */
async function writerOf(
  path: string,
): Promise<(path: string, clip: Frames, fps: number) => Promise<void>> {
  const { writeGif, writeLossless, writeMp4, writeY4m } = await import("../data/video.ts");
  const writers = { ".mp4": writeMp4, ".mkv": writeLossless, ".gif": writeGif, ".y4m": writeY4m };
  const writer = writers[extname(path).toLowerCase() as keyof typeof writers];
  if (!writer) {
    throw new UserError(
      `${path}: no video is written with the extension "${extname(path)}"`,
      `use one of ${Object.keys(writers).join(", ")}`,
    );
  }
  return writer;
}
