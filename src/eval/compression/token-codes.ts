/**
 * @file Codes of token sequences: a stream of sub-ids to bytes and back, without loss. Each factor of
 * a token is a stream of its own alphabet.
 *
 * - `uniform`: log2 K bits a token, whatever they are; the fixed-length code of a vocabulary of any size.
 * - `static`: frequencies are counted first and written in front (rANS). Good for many tokens.
 * - `adaptive`: frequencies are learned on the way on both sides; nothing is written in front.
 * - `prior`: each token under the trained transformer's probabilities given what came before, mixed
 *   with what was learned on the way (mixing.ts).
 */

import type { TokenPrior } from "../../objectives/prior.ts";
import { AdaptiveModel, maxAlphabet } from "./adaptive.ts";
import { ArithmeticDecoder, ArithmeticEncoder, maxTotal } from "./arithmetic.ts";
import { ByteReader, ByteWriter, damaged } from "./bytes.ts";
import { ExpertMixture } from "./mixing.ts";
import { decodeRans, encodeRans, type FrequencyTable, quantizePmf } from "./rans.ts";

export const codeNames = ["uniform", "static", "adaptive", "prior"] as const;
export type CodeName = (typeof codeNames)[number];

/** What both sides of a code know. */
export interface CodeContext {
  /** Sizes of the F sub-vocabularies. */
  readonly factors: readonly number[];
  /** Tokens N of one clip. */
  readonly tokens: number;
  /** Clips of one span of frames; the clip that many earlier shows the same place. Default 1. */
  readonly period?: number;
  /** For `prior`: the model, how many clips it takes at once, and one label a clip (-1: none). */
  readonly prior?: {
    readonly model: TokenPrior;
    readonly batch: number;
    readonly onProgress?: (clips: number) => void;
  };
}

/**
 * Code clips' tokens.
 * @param ids [clips, N, F], row-major
 * @throws RangeError when a sub-id is outside of its vocabulary
 */
export async function encodeTokens(
  name: CodeName,
  ids: Int32Array,
  context: CodeContext,
): Promise<Uint8Array> {
  const { factors } = context;
  ids.forEach((id, i) => {
    const size = factors[i % factors.length]!;
    if (!(id >= 0 && id < size)) {
      throw new RangeError(`sub-id ${id} is outside of a vocabulary of ${size}`);
    }
  });
  switch (name) {
    case "uniform":
      return encodeUniform(ids, factors);
    case "static":
      return encodeStatic(ids, factors);
    case "adaptive":
      return encodeAdaptive(ids, factors);
    case "prior":
      return codeWithPrior(ids, context, undefined);
  }
}

/**
 * The tokens of `clips` clips.
 * @throws UserError when the bytes are damaged
 */
export async function decodeTokens(
  name: CodeName,
  bytes: Uint8Array,
  clips: number,
  context: CodeContext,
): Promise<Int32Array> {
  const ids = new Int32Array(clips * context.tokens * context.factors.length);
  switch (name) {
    case "uniform":
      decodeUniform(bytes, ids, context.factors);
      break;
    case "static":
      decodeStatic(bytes, ids, context.factors);
      break;
    case "adaptive":
      decodeAdaptive(bytes, ids, context.factors);
      break;
    case "prior":
      await codeWithPrior(ids, context, bytes);
  }
  return ids;
}

/** A number below `size` as digits below 2^16, highest first: the digits' alphabets. */
export function digitSizes(size: number): number[] {
  return size <= maxAlphabet ? [size] : [...digitSizes(Math.ceil(size / maxAlphabet)), maxAlphabet];
}

function toDigits(id: number, count: number): number[] {
  return count === 1
    ? [id]
    : [...toDigits(Math.floor(id / maxAlphabet), count - 1), id % maxAlphabet];
}

const fromDigits = (digits: readonly number[]): number =>
  digits.reduce((value, digit) => value * maxAlphabet + digit, 0);

function encodeUniform(ids: Int32Array, factors: readonly number[]): Uint8Array {
  const coder = new ArithmeticEncoder();
  const sizes = factors.map(digitSizes);
  ids.forEach((id, i) => {
    const alphabet = sizes[i % factors.length]!;
    toDigits(id, alphabet.length).forEach((digit, k) => coder.encode(digit, 1, alphabet[k]!));
  });
  return coder.finish();
}

function decodeUniform(bytes: Uint8Array, ids: Int32Array, factors: readonly number[]): void {
  const coder = new ArithmeticDecoder(bytes);
  const sizes = factors.map(digitSizes);
  for (let i = 0; i < ids.length; i++) {
    const digits = sizes[i % factors.length]!.map((size) => {
      const digit = coder.target(size);
      coder.decode(digit, 1, size);
      return digit;
    });
    ids[i] = fromDigits(digits);
  }
}

/** How fast adaptive frequencies move; the encoder tries all and names the best in the first byte. */
const gains = [1, 2, 8, 32] as const;

const adaptiveModels = (factors: readonly number[], gain: number): AdaptiveModel[][] =>
  factors.map((size) => digitSizes(size).map((digits) => new AdaptiveModel(digits, gain)));

function encodeAdaptive(ids: Int32Array, factors: readonly number[]): Uint8Array {
  const coded = gains.map((gain) => {
    const coder = new ArithmeticEncoder();
    const models = adaptiveModels(factors, gain);
    ids.forEach((id, i) => {
      const alphabet = models[i % factors.length]!;
      toDigits(id, alphabet.length).forEach((digit, k) => alphabet[k]!.encode(coder, digit));
    });
    return coder.finish();
  });
  const best = coded.reduce((b, bytes, i) => (bytes.length < coded[b]!.length ? i : b), 0);
  const out = new Uint8Array(1 + coded[best]!.length);
  out[0] = best;
  out.set(coded[best]!, 1);
  return out;
}

function decodeAdaptive(bytes: Uint8Array, ids: Int32Array, factors: readonly number[]): void {
  const gain = gains[bytes[0]!];
  if (gain === undefined) {
    throw damaged("the token stream", "names no adaptation rate");
  }
  const coder = new ArithmeticDecoder(bytes.subarray(1));
  const models = adaptiveModels(factors, gain);
  for (let i = 0; i < ids.length; i++) {
    ids[i] = fromDigits(models[i % factors.length]!.map((model) => model.decode(coder)));
  }
}

/** Bits of a static table over `used` symbols: fine enough that the rounding costs next to nothing. */
const tableBits = (used: number): number =>
  Math.min(16, Math.max(12, Math.ceil(Math.log2(Math.max(2, used))) + 2));

/** Symbols of a factor that one table cannot hold are coded in digits, as everywhere. */
function columns(ids: Int32Array, factors: readonly number[]): number[][] {
  return factors.flatMap((size, f) => {
    const count = digitSizes(size).length;
    const streams: number[][] = Array.from({ length: count }, () => []);
    for (let i = f; i < ids.length; i += factors.length) {
      toDigits(ids[i]!, count).forEach((digit, k) => streams[k]!.push(digit));
    }
    return streams;
  });
}

function encodeStatic(ids: Int32Array, factors: readonly number[]): Uint8Array {
  const out = new ByteWriter();
  for (const stream of columns(ids, factors)) {
    const counts = new Map<number, number>();
    for (const symbol of stream) {
      counts.set(symbol, (counts.get(symbol) ?? 0) + 1);
    }
    const used = [...counts.keys()].sort((a, b) => a - b);
    // Too many symbols for a table of 16 bits: plain digits cost no more than the table would.
    if (used.length > 2 ** 14) {
      out.number(0);
      const size = used.at(-1)! + 1; // sorted
      out.number(size);
      writeBlock(out, encodeUniform(Int32Array.from(stream), [size]));
      continue;
    }
    out.number(used.length);
    if (used.length === 0) {
      out.number(0);
      writeBlock(out, new Uint8Array(0));
      continue;
    }
    const table = quantizePmf(used.map((s) => counts.get(s)! / stream.length), tableBits(used.length)); // biome-ignore format: one line
    used.forEach((symbol, i) => {
      out.number(i === 0 ? symbol : symbol - used[i - 1]! - 1);
      out.number(table.cumulative[i + 1]! - table.cumulative[i]! - 1);
    });
    const index = new Map(used.map((symbol, i) => [symbol, i]));
    writeBlock(out, encodeRans(stream.map((symbol) => index.get(symbol)!), table)); // biome-ignore format: one line
  }
  return out.finish();
}

function writeBlock(out: ByteWriter, bytes: Uint8Array): void {
  out.number(bytes.length);
  out.bytes(bytes);
}

function decodeStatic(bytes: Uint8Array, ids: Int32Array, factors: readonly number[]): void {
  const reader = new ByteReader(bytes, "the token stream");
  const tokens = ids.length / factors.length;
  factors.forEach((size, f) => {
    const streams = digitSizes(size).map((digits) => decodeColumn(reader, tokens, digits));
    for (let n = 0; n < tokens; n++) {
      ids[n * factors.length + f] = fromDigits(streams.map((stream) => stream[n]!));
    }
  });
  if (reader.left > 0) {
    throw damaged("the token stream", "goes on after its end");
  }
}

function decodeColumn(reader: ByteReader, count: number, alphabet: number): Int32Array {
  const used = reader.number();
  if (used === 0) {
    const size = reader.number();
    const block = reader.bytes(reader.number());
    const symbols = new Int32Array(size === 0 ? 0 : count);
    if (size > alphabet || (size === 0 && count > 0)) {
      throw damaged("the token stream", "has a table that does not fit its vocabulary");
    }
    decodeUniform(block, symbols, [Math.max(1, size)]);
    return symbols;
  }
  const bits = tableBits(used);
  if (used > 2 ** 14 || used > alphabet) {
    throw damaged("the token stream", "has a table that does not fit its vocabulary");
  }
  const symbols: number[] = [];
  const cumulative = new Uint32Array(used + 1);
  for (let i = 0; i < used; i++) {
    symbols.push(reader.number() + (i === 0 ? 0 : symbols[i - 1]! + 1));
    cumulative[i + 1] = cumulative[i]! + reader.number() + 1;
  }
  if (symbols.at(-1)! >= alphabet || cumulative[used] !== 2 ** bits) {
    throw damaged("the token stream", "has a table that does not fit its vocabulary");
  }
  const table: FrequencyTable = { bits, cumulative };
  return decodeRans(reader.bytes(reader.number()), count, table).map((i) => symbols[i]!);
}

/**
 * Both directions: the questions to the prior are the same, only the coder differs.
 * @param ids tokens to code, or room for them when `bytes` are decoded
 */
async function codeWithPrior(
  ids: Int32Array,
  { factors, tokens, period = 1, prior }: CodeContext,
  bytes: Uint8Array | undefined,
): Promise<Uint8Array> {
  if (!prior) {
    throw new Error("the code `prior` needs a trained transformer");
  }
  const wide = factors.find((size) => size > maxTotal / 16);
  if (wide !== undefined) {
    throw new RangeError(`a sub-vocabulary of ${wide} is too large for coding under a prior`);
  }
  const [encoder, decoder] = bytes
    ? [undefined, new ArithmeticDecoder(bytes)]
    : [new ArithmeticEncoder(), undefined];
  const mixtures = factors.map((size) => new ExpertMixture(size));
  const earlier = (clip: number, place: number, f: number): number =>
    clip < period ? -1 : ids[(clip - period) * stride + place * factors.length + f]!;
  const stride = tokens * factors.length;
  const clips = ids.length / stride;
  for (let first = 0; first < clips; first += prior.batch) {
    // Whole batches, so that one function is compiled: the last one is filled up with zeros.
    const count = Math.min(prior.batch, clips - first);
    const batch = new Int32Array(prior.batch * stride);
    if (encoder) {
      batch.set(ids.subarray(first * stride, (first + count) * stride));
    }
    const labels = new Int32Array(prior.batch).fill(-1);
    for await (const group of prior.model.groups(batch, labels)) {
      for (let b = 0; b < count; b++) {
        for (const place of group.places) {
          for (let f = 0; f < factors.length; f++) {
            const mixture = mixtures[f]!;
            mixture.predict(group.logits(b, place, f), earlier(first + b, place, f));
            const table = mixture.frequencies;
            const at = b * stride + place * factors.length + f;
            let symbol = encoder ? batch[at]! : 0;
            if (encoder) {
              let low = 0;
              for (let i = 0; i < symbol; i++) {
                low += table[i]!;
              }
              encoder.encode(low, table[symbol]!, maxTotal);
            } else {
              const target = decoder!.target(maxTotal);
              let low = 0;
              while (low + table[symbol]! <= target) {
                low += table[symbol]!;
                symbol += 1;
              }
              decoder!.decode(low, table[symbol]!, maxTotal);
              batch[at] = symbol;
              ids[first * stride + at] = symbol; // a later clip of this batch may ask for it
            }
            mixture.update(symbol);
          }
        }
      }
    }
    prior.onProgress?.(first + count);
  }
  return encoder ? encoder.finish() : new Uint8Array(0);
}
