/**
 * @file What packing would pad: sequences of several lengths laid one behind the other into rows of one
 * length, the usual rival of VideoPoet's alternating gradient descent by groups of lengths (§3.3).
 */

import { Random } from "../../runtime/random.ts";

/**
 * The share of empty slots when a stream of sequences is packed into rows as long as the longest: a row
 * takes the first of the waiting ones that still fits (first fit), and is closed when none does.
 * @param lengths by task
 * @param weights how often each task is drawn
 * @param count sequences of the stream
 * @param waiting how many sequences can be chosen from
 */
export function packedPadding(
  lengths: readonly number[],
  weights: readonly number[],
  count: number,
  waiting: number,
): number {
  const random = new Random(0, "multimodal/packing");
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const draw = (): number => {
    let level = random.uniform() * total;
    const task = weights.findIndex((weight) => (level -= weight) < 0);
    return lengths[task < 0 ? lengths.length - 1 : task]!;
  };
  const row = Math.max(...lengths);
  const queue: number[] = [];
  let [drawn, rows, used] = [0, 0, 0];
  const refill = (): void => {
    while (queue.length < waiting && drawn < count) {
      queue.push(draw());
      drawn++;
    }
  };
  refill();
  while (queue.length > 0) {
    let left = row;
    for (;;) {
      const next = queue.findIndex((length) => length <= left);
      if (next < 0) {
        break;
      }
      left -= queue[next]!;
      used += queue[next]!;
      queue.splice(next, 1);
      refill();
    }
    rows++;
  }
  return 1 - used / (rows * row);
}
