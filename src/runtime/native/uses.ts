/**
 * @file Who reads what. Nodes that only change the view (reshape, transpose, slice, ...) compute nothing
 * here, so a value's readers are looked for behind them.
 */

import { type Graph, type GraphNode, liveNodes, type Value } from "../graph.ts";

/** Nodes that become another view of their operand. */
export const VIEW_OPS: ReadonlySet<string> = new Set([
  "Reshape",
  "Transpose",
  "Slice",
  "Reverse",
  "Tile",
]);

/** Nodes that hold values and compute nothing. */
export const LEAVES: ReadonlySet<string> = new Set(["Input", "State", "Constant", "Fill"]);

export interface Uses {
  /** All live nodes, each after those that it depends on. */
  readonly nodes: readonly GraphNode[];
  /** The nodes that read a value as it is. */
  readonly readers: (value: Value) => readonly GraphNode[];
  /** The computing nodes that read a value, also through views of it. */
  readonly computing: (value: Value) => readonly GraphNode[];
  /** Whether a value, or a view of it, is an output of the graph or a next state. */
  readonly leaves: (value: Value) => boolean;
}

/** The value that views are views of. */
export function rootOf(value: Value): Value {
  let root = value;
  while (VIEW_OPS.has(root.node.op)) {
    root = root.node.inputs[0]!;
  }
  return root;
}

/** The value behind reshapes alone: the same elements in the same order. */
export function flatRoot(value: Value): Value {
  let root = value;
  while (root.node.op === "Reshape") {
    root = root.node.inputs[0]!;
  }
  return root;
}

export function usesOf(graph: Graph): Uses {
  const nodes = liveNodes(graph);
  const direct = new Map<Value, GraphNode[]>();
  for (const node of nodes) {
    for (const value of new Set(node.inputs)) {
      direct.set(value, [...(direct.get(value) ?? []), node]);
    }
  }
  const out = new Set<Value>([
    ...graph.outputs.map(({ value }) => value),
    ...graph.states.flatMap(({ next }) => (next ? [next] : [])),
  ]);
  const readers = (value: Value): readonly GraphNode[] => direct.get(value) ?? [];
  const memo = new Map<Value, readonly GraphNode[]>();
  const computing = (value: Value): readonly GraphNode[] => {
    let found = memo.get(value);
    if (!found) {
      found = readers(value).flatMap((node) =>
        VIEW_OPS.has(node.op) ? computing(node.outputs[0]!) : [node],
      );
      memo.set(value, found);
    }
    return found;
  };
  const leaves = (value: Value): boolean =>
    out.has(value) ||
    readers(value).some((node) => VIEW_OPS.has(node.op) && leaves(node.outputs[0]!));
  return { nodes, readers, computing, leaves };
}
