/**
 * @file The static memory plan: buffers of one call get fixed places in one arena, so that buffers whose
 * lives do not overlap share memory. Large buffers are placed first, each at the lowest gap that fits
 * ("greedy by size", Pisarchyk & Lee 2020, "Efficient memory management for deep neural net inference").
 */

import type { Buffer, Step } from "./program.ts";

export interface ArenaPlan {
  readonly bytes: number;
  /** Start of each arena buffer, in bytes. */
  readonly offsets: ReadonlyMap<Buffer, number>;
}

/** One placed piece of memory: a buffer with those that take it over. */
interface Block {
  readonly bytes: number;
  readonly first: number;
  last: number;
  offset: number;
}

/** Cache lines; and pages of 4 KiB would make equal columns of several buffers collide in the cache. */
const ALIGNMENT = 64;

const rounded = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Lives of the arena's buffers, by step index, with in-place takeovers joined. */
function blocksOf(steps: readonly Step[]): Map<Buffer, Block> {
  const lastUse = new Map<Buffer, number>();
  steps.forEach((step, i) => {
    for (const { buffer } of [...step.inputs, ...step.outputs]) {
      lastUse.set(buffer, i);
    }
  });
  const blocks = new Map<Buffer, Block>();
  steps.forEach((step, i) => {
    for (const { buffer } of step.outputs) {
      if (buffer.place !== "arena" || blocks.has(buffer)) {
        continue;
      }
      const donor =
        buffer === step.outputs[0]!.buffer
          ? step.inPlace.find(
              (view) =>
                view.buffer.place === "arena" &&
                view.buffer.bytes === buffer.bytes &&
                blocks.get(view.buffer)?.last === i,
            )
          : undefined;
      const taken = donor && blocks.get(donor.buffer);
      if (taken) {
        taken.last = lastUse.get(buffer)!;
        blocks.set(buffer, taken);
      } else {
        const bytes = rounded(Math.max(1, buffer.bytes));
        blocks.set(buffer, { bytes, first: i, last: lastUse.get(buffer)!, offset: 0 });
      }
    }
  });
  return blocks;
}

/** Give every arena buffer its place. */
export function planArena(steps: readonly Step[]): ArenaPlan {
  const blocks = blocksOf(steps);
  const order = [...new Set(blocks.values())].sort(
    (a, b) => b.bytes - a.bytes || a.first - b.first,
  );
  const placed: Block[] = []; // by offset
  let bytes = 0;
  for (const block of order) {
    let offset = 0;
    for (const other of placed) {
      if (other.last < block.first || block.last < other.first) {
        continue;
      }
      if (other.offset >= offset + block.bytes) {
        break;
      }
      offset = Math.max(offset, other.offset + other.bytes);
    }
    block.offset = offset;
    const at = placed.findIndex((other) => other.offset > offset);
    placed.splice(at < 0 ? placed.length : at, 0, block);
    bytes = Math.max(bytes, offset + block.bytes);
  }
  const offsets = new Map<Buffer, number>();
  for (const [buffer, block] of blocks) {
    offsets.set(buffer, block.offset);
  }
  return { bytes, offsets };
}
