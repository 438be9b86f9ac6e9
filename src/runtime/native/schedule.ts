/**
 * @file The order of items: as traced, but what frees at least as much memory as it takes runs as soon as it
 * can. In a backward pass filter gradients then follow at once the gradient that they need, which is still
 * in the cache and can be freed.
 */

import { byteSize, type GraphNode, type Value } from "../graph.ts";
import { dependencies, type Item, itemMap } from "./items.ts";
import { LEAVES, rootOf } from "./uses.ts";

/** The roots that an item reads from outside of it. */
export function rootsRead(item: Item): Set<Value> {
  const own = new Set(item.nodes);
  const roots = item.nodes.flatMap((node) => node.inputs.map(rootOf));
  return new Set(roots.filter((root) => !own.has(root.node)));
}

export function scheduled(items: readonly Item[]): Item[] {
  const itemOf: ReadonlyMap<GraphNode, Item> = itemMap(items);
  const waiting = new Map<Item, number>();
  const followers = new Map<Item, Item[]>();
  const readersLeft = new Map<Value, number>();
  for (const item of items) {
    const needed = dependencies(item, itemOf);
    waiting.set(item, needed.length);
    for (const other of needed) {
      followers.set(other, [...(followers.get(other) ?? []), item]);
    }
    for (const root of rootsRead(item)) {
      if (!LEAVES.has(root.node.op)) {
        readersLeft.set(root, (readersLeft.get(root) ?? 0) + 1);
      }
    }
  }
  const position = new Map(items.map((item, i) => [item, i]));
  /** Bytes taken less bytes freed by running an item now. */
  const growth = (item: Item): number => {
    let bytes = 0;
    for (const node of item.nodes) {
      for (const output of node.outputs) {
        bytes += (readersLeft.get(output) ?? 0) > 0 ? byteSize(output) : 0;
      }
    }
    for (const root of rootsRead(item)) {
      if (readersLeft.get(root) === 1) {
        bytes -= byteSize(root);
      }
    }
    return bytes;
  };
  const ready = items.filter((item) => waiting.get(item) === 0);
  const order: Item[] = [];
  while (ready.length > 0) {
    let best = 0;
    let bestFrees = false;
    for (let i = 0; i < ready.length; i++) {
      const frees = growth(ready[i]!) <= 0;
      const earlier = position.get(ready[i]!)! < position.get(ready[best]!)!;
      if (i === 0 || (frees && !bestFrees) || (frees === bestFrees && earlier)) {
        best = i;
        bestFrees = frees;
      }
    }
    const [item] = ready.splice(best, 1) as [Item];
    order.push(item);
    for (const root of rootsRead(item)) {
      readersLeft.set(root, (readersLeft.get(root) ?? 1) - 1);
    }
    for (const follower of followers.get(item) ?? []) {
      const left = waiting.get(follower)! - 1;
      waiting.set(follower, left);
      if (left === 0) {
        ready.push(follower);
      }
    }
  }
  return order;
}
