/**
 * @file Ids packed to as many bits as their vocabulary needs. Id i of a row takes the bits i·b to
 * i·b + b − 1 of a stream of 32-bit little-endian words, lowest bit first; a row is a whole number of
 * words.
 */

/** Bits that hold every id of a vocabulary. */
export function bitsFor(size: number): number {
  return Math.max(1, Math.ceil(Math.log2(size)));
}

/** Words of a row. */
export function wordsFor(count: number, bits: number): number {
  return Math.ceil((count * bits) / 32);
}

/** Pack `count` ids from `ids[from]` into `words[at]` and on, which must be 0. */
export function pack(
  ids: ArrayLike<number>,
  from: number,
  count: number,
  bits: number,
  words: Uint32Array,
  at: number,
): void {
  for (let i = 0; i < count; i++) {
    const id = ids[from + i]!;
    if (id < 0 || id >= 2 ** bits) {
      throw new RangeError(`id ${id} does not fit ${bits} bits`);
    }
    const place = i * bits;
    const word = at + (place >>> 5);
    const shift = place & 31;
    words[word] = words[word]! | (id << shift);
    if (shift + bits > 32) {
      words[word + 1] = words[word + 1]! | (id >>> (32 - shift));
    }
  }
}

/** Unpacks whole groups: the fewest ids that fill whole words. */
type Group = (words: Uint32Array, at: number, out: Int32Array, to: number) => void;

interface Unpacker {
  readonly ids: number;
  readonly words: number;
  readonly group: Group;
}

const unpackers = new Map<number, Unpacker>();

/**
 * A function for one number of bits with every word and shift written out: several times as fast as
 * a loop, which matters where tokens feed a small transformer.
 */
function unpackerFor(bits: number): Unpacker {
  let made = unpackers.get(bits);
  if (made === undefined) {
    let common = bits;
    for (let rest = 32; rest > 0; ) {
      [common, rest] = [rest, common % rest];
    }
    const ids = 32 / common;
    const words = bits / common;
    made = { ids, words, group: writtenOut(bits, ids, words) ?? looped(bits, ids) };
    unpackers.set(bits, made);
  }
  return made;
}

function writtenOut(bits: number, ids: number, words: number): Group | undefined {
  const lines = Array.from({ length: words }, (_, w) => `const w${w} = words[at + ${w}];`);
  for (let i = 0; i < ids; i++) {
    const [word, shift] = [(i * bits) >>> 5, (i * bits) & 31];
    const high = shift + bits > 32 ? ` | (w${word + 1} << ${32 - shift})` : "";
    lines.push(`out[to + ${i}] = ((w${word} >>> ${shift})${high}) & ${2 ** bits - 1};`);
  }
  try {
    // The text is made of numbers alone.
    return new Function("words", "at", "out", "to", lines.join("\n")) as Group;
  } catch {
    return undefined; // where making functions from text is forbidden
  }
}

function looped(bits: number, ids: number): Group {
  return (words, at, out, to) => unpackLoop(words, at, ids, bits, out, to);
}

function unpackLoop(
  words: Uint32Array,
  at: number,
  count: number,
  bits: number,
  out: Int32Array,
  to: number,
): void {
  const mask = 2 ** bits - 1;
  for (let i = 0; i < count; i++) {
    const place = i * bits;
    const word = at + (place >>> 5);
    const shift = place & 31;
    const high = shift + bits > 32 ? words[word + 1]! << (32 - shift) : 0;
    out[to + i] = ((words[word]! >>> shift) | high) & mask;
  }
}

/** Unpack `count` ids from `words[at]` and on into `out[to]` and on. At most 31 bits. */
export function unpack(
  words: Uint32Array,
  at: number,
  count: number,
  bits: number,
  out: Int32Array,
  to: number,
): void {
  const { ids, words: step, group } = unpackerFor(bits);
  let done = 0;
  for (; done + ids <= count; done += ids) {
    group(words, at, out, to + done);
    at += step;
  }
  if (done < count) {
    unpackLoop(words, at, count - done, bits, out, to + done);
  }
}
