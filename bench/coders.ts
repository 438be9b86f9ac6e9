/**
 * @file `npx tsx bench/coders.ts`: speed of the entropy coders in symbols and in MB of 32-bit ids a
 * second, median of five. There is no twin: PyTorch has no coder.
 */

import { AdaptiveModel } from "../src/eval/compression/adaptive.ts";
import { ArithmeticDecoder, ArithmeticEncoder } from "../src/eval/compression/arithmetic.ts";
import { decodeRans, encodeRans, quantizePmf } from "../src/eval/compression/rans.ts";
import { Random } from "../src/runtime/random.ts";

const SIZE = 1024;
const COUNT = 2 ** 21;

function median(run: () => void): number {
  const times = Array.from({ length: 5 }, () => {
    const from = performance.now();
    run();
    return (performance.now() - from) / 1000;
  });
  return times.sort((a, b) => a - b)[2]!;
}

const uniforms = new Random(0, "bench/coders").uniforms(COUNT);
const symbols = Int32Array.from(uniforms, (u) => Math.floor(SIZE * u ** 4));
const counts = new Float64Array(SIZE);
for (const symbol of symbols) {
  counts[symbol]! += 1 / COUNT;
}
const table = quantizePmf(counts, 14);
let bytes = encodeRans(symbols, table);
const few = symbols.subarray(0, 2 ** 18);
const adaptive = (): Uint8Array => {
  const coder = new ArithmeticEncoder();
  const model = new AdaptiveModel(SIZE, 2);
  for (const symbol of few) {
    model.encode(coder, symbol);
  }
  return coder.finish();
};
const coded = adaptive();
const rows: [string, number, number][] = [
  ["rans static, encode", COUNT, median(() => (bytes = encodeRans(symbols, table)))],
  ["rans static, decode", COUNT, median(() => void decodeRans(bytes, COUNT, table))],
  ["arithmetic adaptive, encode", few.length, median(() => void adaptive())],
  [
    "arithmetic adaptive, decode",
    few.length,
    median(() => {
      const coder = new ArithmeticDecoder(coded);
      const model = new AdaptiveModel(SIZE, 2);
      for (let i = 0; i < few.length; i++) {
        model.decode(coder);
      }
    }),
  ],
];
for (const [name, count, seconds] of rows) {
  const millions = count / seconds / 1e6;
  console.log(`${name}: ${millions.toFixed(1)} M symbols/s, ${(millions * 4).toFixed(0)} MB/s`);
}
