/**
 * @file `npx tsx bench/eval.ts [--python PATH] [--only NAME]...`: what evaluation computes beside plain
 * PyTorch (twins/eval.py), each repetition timed inside its own process: I3D's logits, SSIM, MS-SSIM,
 * and Fréchet distances of 400 and 2048 features. Medians, and their ratio; both sides' values are
 * compared first.
 */

import { execFileSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { FeatureStatistics, frechetDistance } from "../src/eval/distribution/frechet.ts";
import { msSsimClip } from "../src/eval/ms-ssim.ts";
import { ssimClip } from "../src/eval/ssim.ts";
import { buildI3d } from "../src/models/features/i3d.ts";
import { Scope } from "../src/models/scope.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { uint8, sizeOf } from "../src/runtime/tensors.ts";
import { normalise } from "../src/eval/tokenize.ts";

/** A hash of 32 bits (murmur3's last steps). */
function mixed(i: number): number {
  let h = Math.imul(i ^ (i >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** The same bytes on both sides: byte i of a stream. */
function bytes(count: number, salt: number): Uint8Array {
  return Uint8Array.from({ length: count }, (_, i) => mixed(i + salt) >>> 24);
}

/** The same features on both sides. */
function features(n: number, d: number, salt: number): Float32Array {
  return Float32Array.from(
    { length: n * d },
    (_, i) => (mixed(i + salt) / 2 ** 32) * (1 + ((i % d) % 7)),
  );
}

/** 16 frames of 256 x 256 and a noisy copy. */
function pair(): [Uint8Array, Uint8Array] {
  const [a, noise] = [1, 2].map((salt) => bytes(16 * 256 * 256 * 3, salt)) as [
    Uint8Array,
    Uint8Array,
  ];
  return [a, a.map((value, i) => (3 * value + noise[i]!) >> 2)];
}

interface Timed {
  readonly value: number;
  readonly seconds: readonly number[];
}

async function timed(
  repetitions: number,
  run: () => number | Promise<number>,
  warm = true,
): Promise<Timed> {
  const seconds: number[] = [];
  let value = warm ? await run() : Number.NaN;
  for (let i = 0; i < repetitions; i++) {
    const from = performance.now();
    value = await run();
    seconds.push((performance.now() - from) / 1000);
  }
  return { value, seconds };
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;

function frechet(n: number, d: number): number {
  const [x, y] = [features(n, d, 1), features(n, d, 99_991)];
  const of = (values: Float32Array) => {
    const statistics = new FeatureStatistics(d);
    statistics.add(values);
    return statistics.moments("unbiased");
  };
  return frechetDistance(of(x), of(y));
}

const shape = { height: 256, width: 256, channels: 3 };

const workloads: { readonly [name: string]: () => Promise<Timed> } = {
  async "i3d-16"() {
    const device = await openDevice({ type: "cpu" });
    const i3d = buildI3d(Scope.root(0));
    const run = device.compile("i3d", ({ clips }) => ({
      y: i3d.logits(normalise(clips!)),
    }));
    const clips = uint8([1, 16, 224, 224, 3], bytes(sizeOf([16, 224, 224, 3]), 7));
    return timed(3, async () => (await run({ clips })).y!.data.length);
  },
  ssim: () => {
    const [a, b] = pair();
    return timed(3, () => ssimClip(a, b, 16, shape, "gaussian-valid"));
  },
  "ms-ssim": () => {
    const [a, b] = pair();
    return timed(3, () => msSsimClip(a, b, 16, shape, "pytorch"));
  },
  "frechet-400": () => timed(3, () => frechet(2048, 400)),
  "frechet-2048": () => timed(1, () => frechet(4096, 2048), false),
};

const { values } = parseArgs({
  options: {
    only: { type: "string", multiple: true, default: [] },
    python: { type: "string", default: "python3" },
  },
});
for (const [name, run] of Object.entries(workloads)) {
  if (values.only.length > 0 && !values.only.includes(name)) {
    continue;
  }
  const ours = await run();
  const twin = JSON.parse(
    execFileSync(
      values.python,
      [new URL("twins/eval.py", import.meta.url).pathname, name, String(availableParallelism())],
      { encoding: "utf8" },
    ),
  ) as Timed & { readonly note: string };
  const [a, b] = [median(ours.seconds), median(twin.seconds)];
  const apart = Math.abs(ours.value / twin.value - 1);
  console.log(
    `${name}: ours ${a.toFixed(3)} s, ${twin.note} ${b.toFixed(3)} s; values ${ours.value} and ${twin.value} (${apart.toExponential(1)} apart)\nratio ${name} ${(b / a).toFixed(2)}`,
  );
}
process.exit();
