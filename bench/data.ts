/**
 * @file Random clips of 16 frames at 128×128 from a folder of videos: Tessera with two threads beside
 * PyAV with two processes, on the same clips of the same files (twins/video_clips.py). Then memory
 * over many clips.
 *
 *   npx tsx bench/data.ts FOLDER [clips] [memory clips]
 *
 * BENCH_PYTHON names a Python that has `av`. The figures are of everything that a clip costs: opening,
 * seeking, decoding, resizing, cropping; ours also looks into each file when it is first drawn.
 */

import { spawn } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { loadAv } from "../src/data/av.ts";
import type { ClipTask } from "../src/data/decode.ts";
import { makeRunner } from "../src/data/look.ts";
import { type Probe, probeSource } from "../src/data/probe.ts";
import { wholeFile } from "../src/data/source.ts";
import { Random } from "../src/runtime/random.ts";

const [folder, count = "400", many = "0"] = process.argv.slice(2);
if (folder === undefined) {
  throw new Error("give a folder of videos");
}
const FRAMES = 16;
const SIZE = 128;
const WORKERS = 2;

interface Clip {
  readonly file: string;
  readonly first: number;
  readonly frames: number;
}

const av = await loadAv();
const files = readdirSync(folder)
  .map((name) => join(folder, name))
  .filter((file) => statSync(file).isFile())
  .flatMap((file) => {
    const probe = probeSource(av, { source: wholeFile(file), verify: "full", missing: 0 });
    return "problem" in probe || probe.frames < FRAMES ? [] : [{ file, frames: probe.frames }];
  });
const random = new Random(0, "bench/clips");
const draw = (n: number): Clip[] =>
  Array.from({ length: n }, () => {
    const { file, frames } = random.choice(files);
    return { file, first: random.int(frames - FRAMES + 1), frames: FRAMES };
  });

/** `all` with a step of 1: clip `first` begins at frame `first`. */
function task({ file, first }: Clip, filter: "bilinear" | "bicubic"): ClipTask {
  return {
    source: wholeFile(file),
    probe: undefined as Probe | undefined,
    rule: { frames: FRAMES, fps: null, stride: 1, place: "all", clips: 1, step: 1, short: "skip" },
    which: first,
    chance: 0,
    pixels: { height: SIZE, width: SIZE, resize: undefined, filter, colour: "auto", range: "auto", conversion: "swscale" }, // biome-ignore format: one value
    crop: { at: [0.5, 0.5], flip: false },
    missing: 0,
  };
}

const runner = await makeRunner(WORKERS);

/** Clips a second of the clock, and a second of processor time, which a busy machine changes less. */
interface Rate {
  readonly clock: number;
  readonly cpu: number;
}

/** Clips a second, with as many under way as keep all threads busy. */
async function ours(
  clips: readonly Clip[],
  filter: "bilinear" | "bicubic",
  each?: (done: number) => void,
): Promise<Rate> {
  const busy = process.cpuUsage();
  let [next, done] = [0, 0];
  const begin = performance.now();
  const one = async (): Promise<void> => {
    while (next < clips.length) {
      const made = await runner.decode(task(clips[next++]!, filter));
      if ("problem" in made) {
        throw new Error(made.problem);
      }
      done += 1;
      each?.(done);
    }
  };
  await Promise.all(Array.from({ length: 2 * WORKERS }, one));
  const { user, system } = process.cpuUsage(busy);
  return {
    clock: (1000 * clips.length) / (performance.now() - begin),
    cpu: (1e6 * clips.length) / (user + system),
  };
}

async function pyav(clips: readonly Clip[], filter: string): Promise<Rate> {
  const python = process.env["BENCH_PYTHON"] ?? "python3";
  const script = new URL("twins/video_clips.py", import.meta.url).pathname;
  const halves = [0, 1].map((k) => clips.filter((_, i) => i % WORKERS === k));
  const both = await Promise.all(
    halves.map(
      (half) =>
        new Promise<{ seconds: number; cpu: number }>((resolve, reject) => {
          const child = spawn(python, [script], { stdio: ["pipe", "pipe", "inherit"] });
          let out = "";
          child.stdout.on("data", (chunk) => (out += chunk));
          child.on("close", () => {
            try {
              const result = JSON.parse(out) as {
                clips: number;
                whole: number;
                seconds: number;
                cpu: number;
              };
              resolve(result);
            } catch (error) {
              reject(error as Error);
            }
          });
          child.stdin.end(JSON.stringify({ clips: half, size: SIZE, interpolation: filter.toUpperCase() })); // biome-ignore format: one call
        }),
    ),
  );
  return {
    clock: clips.length / Math.max(...both.map(({ seconds }) => seconds)),
    cpu: clips.length / both.reduce((sum, { cpu }) => sum + cpu, 0),
  };
}

process.stdout.write(`${files.length} files, ${count} clips of ${FRAMES}×${SIZE}×${SIZE}, ${WORKERS} workers\n`); // biome-ignore format: one call
await ours(draw(40), "bicubic"); // threads start, code warms up
for (const filter of ["bilinear", "bicubic"] as const) {
  // In turn, so that a change of the machine's speed meets both.
  const rates: [Rate, Rate][] = [];
  for (let round = 0; round < 3; round++) {
    const clips = draw(Number(count));
    rates.push([await ours(clips, filter), await pyav(clips, filter)]);
  }
  const median = (values: readonly number[]): number => values.toSorted((x, y) => x - y)[1]!;
  for (const kind of ["clock", "cpu"] as const) {
    const [a, b] = [0, 1].map((side) => median(rates.map((rate) => rate[side as 0 | 1][kind])));
    const ratios = rates.map(([x, y]) => x[kind] / y[kind]);
    process.stdout.write(`${filter}, a second of ${kind}: ${a!.toFixed(1)} clips, PyAV ${b!.toFixed(1)}, ratio ${median(ratios).toFixed(2)} (of ${ratios.map((x) => x.toFixed(2)).join(" ")})\n`); // biome-ignore format: one call
  }
}
if (Number(many) > 0) {
  const rss: string[] = [];
  const small = draw(Number(many));
  await ours(small, "bilinear", (done) => {
    if (done % Math.floor(small.length / 10) === 0) {
      rss.push((process.memoryUsage().rss / 2 ** 20).toFixed(0));
    }
  });
  process.stdout.write(`memory over ${many} clips, MiB at every tenth: ${rss.join(" ")}\n`);
}
await runner.close();
process.exit();
