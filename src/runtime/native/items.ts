/**
 * @file What runs as one step or a few that belong together: single nodes, clusters of element-wise nodes,
 * and products or convolutions with what is added to their result.
 */

import { type GraphNode, sameShape, type Value } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import { isPointwise, isTotal } from "./pointwise-nodes.ts";
import { flatRoot, LEAVES, rootOf, type Uses, VIEW_OPS } from "./uses.ts";

/** A result with a bias, a residual and an activation put on as it is written. */
export interface Epilogue {
  readonly bias?: Value;
  readonly residual?: Value;
  readonly activation?: "silu" | "gelu";
  /** What the item gives: the last node's output. */
  readonly result: Value;
}

export interface Item {
  readonly kind: "node" | "pointwise";
  /** In an order that defines before use; a "node" item's first is the node itself. */
  readonly nodes: GraphNode[];
  epilogue?: Epilogue;
}

/** A pointwise cluster is cut when it holds more operations than this. */
const LONGEST = 40;

/** Group a graph's computing nodes into items, in an order that defines before use. */
export function itemsOf(uses: Uses): Item[] {
  const computing = uses.nodes.filter((node) => !LEAVES.has(node.op) && !VIEW_OPS.has(node.op));
  const itemOf = new Map<GraphNode, Item>();
  for (const node of computing) {
    if (node.op === "Conv" || node.op === "ConvInputGrad" || node.op === "BatchMatMul") {
      const item = withEpilogue(uses, node, itemOf);
      for (const member of item.nodes) {
        itemOf.set(member, item);
      }
    }
  }
  for (const node of computing) {
    if (itemOf.has(node)) {
      continue;
    }
    if (!isPointwise(node) && !isTotal(node)) {
      itemOf.set(node, { kind: "node", nodes: [node] });
      continue;
    }
    const item = joinClusters(node, itemOf);
    item.nodes.push(node);
    itemOf.set(node, item);
  }
  // The order in which nodes were traced need not be one of the items.
  return topological(computing, itemOf);
}

/** The items that an item reads from, itself left out. */
export function dependencies(item: Item, itemOf: ReadonlyMap<GraphNode, Item>): readonly Item[] {
  const found = new Set<Item>();
  for (const node of item.nodes) {
    for (const input of node.inputs) {
      const source = itemOf.get(rootOf(input).node);
      if (source && source !== item) {
        found.add(source);
      }
    }
  }
  return [...found];
}

export function itemMap(items: readonly Item[]): Map<GraphNode, Item> {
  return new Map(items.flatMap((item) => item.nodes.map((node) => [node, item] as const)));
}

function topological(nodes: readonly GraphNode[], itemOf: Map<GraphNode, Item>): Item[] {
  const order: Item[] = [];
  const done = new Set<Item>();
  for (const node of nodes) {
    const stack = [itemOf.get(node)!];
    while (stack.length > 0) {
      if (stack.length > 50 * nodes.length + 1000) {
        throw new Error("items depend on each other in a circle");
      }
      const item = stack.at(-1)!;
      const waiting = done.has(item)
        ? []
        : dependencies(item, itemOf).filter((other) => !done.has(other));
      if (waiting.length > 0) {
        stack.push(...waiting);
      } else {
        stack.pop();
        if (!done.has(item)) {
          done.add(item);
          order.push(item);
        }
      }
    }
  }
  return order;
}

/** Whether `value` is an operand that lies element by element beside results of `shape`. */
export function besides(value: Value, shape: readonly number[]): boolean {
  return sameShape(value.shape, shape);
}

/** The cluster that a pointwise node joins, made of those it reads from; a new one where there is none. */
function joinClusters(node: GraphNode, itemOf: Map<GraphNode, Item>): Item {
  const shape = isTotal(node) ? node.inputs[0]!.shape : node.outputs[0]!.shape;
  const joined: Item = { kind: "pointwise", nodes: [] };
  if (sizeOf(shape) === 0) {
    return joined;
  }
  const candidates = new Set<Item>();
  for (const input of node.inputs) {
    const source = itemOf.get(flatRoot(input).node);
    if (source?.kind === "pointwise" && besides(input, shape) && !isTotal(flatRoot(input).node)) {
      candidates.add(source);
    }
  }
  const members = new Set<GraphNode>([node]);
  const taken: Item[] = [];
  for (const candidate of candidates) {
    const larger = new Set([...members, ...candidate.nodes]);
    if (larger.size <= LONGEST && !hasDetour(larger, itemOf, [...taken, candidate])) {
      for (const member of candidate.nodes) {
        members.add(member);
      }
      taken.push(candidate);
    }
  }
  if (taken.length === 1) {
    return taken[0]!;
  }
  // Members of several clusters are interleaved again by their own dependence.
  joined.nodes.push(...ordered(taken.flatMap((item) => item.nodes)));
  for (const member of joined.nodes) {
    itemOf.set(member, joined);
  }
  return joined;
}

/** Members in an order that defines before use; clusters of one node each are in order already. */
function ordered(nodes: readonly GraphNode[]): GraphNode[] {
  const inside = new Set(nodes);
  const done = new Set<GraphNode>();
  const order: GraphNode[] = [];
  const visit = (node: GraphNode): void => {
    if (done.has(node)) {
      return;
    }
    done.add(node);
    for (const input of node.inputs) {
      const source = flatRoot(input).node;
      if (inside.has(source)) {
        visit(source);
      }
    }
    order.push(node);
  };
  nodes.forEach(visit);
  return order;
}

/**
 * Whether some member depends on another one other than element by element: through a node outside, or
 * through a view or a broadcast. Then they cannot be one loop.
 */
function hasDetour(
  members: ReadonlySet<GraphNode>,
  itemOf: ReadonlyMap<GraphNode, Item>,
  merging: readonly Item[],
): boolean {
  const inside = new Set(merging);
  const seen = new Set<Item>();
  const stack: Item[] = [];
  for (const member of members) {
    const shape = isTotal(member) ? member.inputs[0]!.shape : member.outputs[0]!.shape;
    for (const input of member.inputs) {
      const flat = flatRoot(input).node;
      if (members.has(flat) && besides(input, shape) && !isTotal(flat)) {
        continue;
      }
      const root = rootOf(input).node;
      if (members.has(root)) {
        return true;
      }
      const source = itemOf.get(root);
      if (source && !seen.has(source)) {
        seen.add(source);
        stack.push(source);
      }
    }
  }
  for (let item = stack.pop(); item; item = stack.pop()) {
    if (inside.has(item)) {
      return true;
    }
    for (const other of dependencies(item, itemOf)) {
      if (!seen.has(other)) {
        seen.add(other);
        stack.push(other);
      }
    }
  }
  return false;
}

/** A product or convolution with the additions that its result alone goes through. */
function withEpilogue(uses: Uses, node: GraphNode, claimed: ReadonlyMap<GraphNode, Item>): Item {
  const item: Item = { kind: "node", nodes: [node] };
  let result = node.outputs[0]!;
  const channels = result.shape.at(-1)!;
  const found: { bias?: Value; residual?: Value; activation?: "silu" | "gelu" } = {};
  for (;;) {
    if (sizeOf(result.shape) === 0) {
      break;
    }
    const [reader, ...others] = readersThroughReshapes(uses, result);
    if (!reader || others.length > 0 || found.activation || claimed.has(reader)) {
      break;
    }
    if (
      (reader.op === "Gelu" || reader.op === "Silu") &&
      node.op === "BatchMatMul" &&
      !found.residual
    ) {
      found.activation = reader.op === "Gelu" ? "gelu" : "silu";
    } else if (reader.op === "Add" && reader.outputs[0]!.dtype === "float32") {
      const [a, b] = reader.inputs as [Value, Value];
      const own = flatRoot(a) === result ? a : b;
      const other = own === a ? b : a;
      if (flatRoot(own) !== result || flatRoot(other) === result || other.dtype !== "float32") {
        break;
      }
      const isBias =
        other.node.op !== "Fill" &&
        sizeOf(other.shape) === channels &&
        other.shape.at(-1) === channels &&
        reader.outputs[0]!.shape.at(-1) === channels;
      if (!found.bias && !found.residual && isBias && besides(own, reader.outputs[0]!.shape)) {
        found.bias = other;
      } else if (
        node.op !== "BatchMatMul" &&
        !found.residual &&
        other.node.op !== "Fill" &&
        besides(own, reader.outputs[0]!.shape) &&
        besides(other, reader.outputs[0]!.shape)
      ) {
        found.residual = other;
      } else {
        break;
      }
    } else {
      break;
    }
    item.nodes.push(reader);
    result = reader.outputs[0]!;
  }
  if (item.nodes.length > 1) {
    item.epilogue = { ...found, result };
  }
  return item;
}

/** The computing readers of a value behind reshapes; two where it also goes elsewhere. */
function readersThroughReshapes(uses: Uses, value: Value): readonly (GraphNode | undefined)[] {
  if (uses.leaves(value)) {
    return [undefined];
  }
  return uses
    .readers(value)
    .flatMap((node) =>
      node.op === "Reshape"
        ? readersThroughReshapes(uses, node.outputs[0]!)
        : VIEW_OPS.has(node.op)
          ? [undefined]
          : [node],
    );
}
