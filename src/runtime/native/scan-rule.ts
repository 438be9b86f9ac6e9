/**
 * @file The step of a loop (scan.ts): its body is a program of its own, with an arena of its own. What the
 * body carries lies in place wherever the body can write over it. Weights that its products read are packed
 * once, before the first turn.
 */

import type { GraphNode, Value } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import { type InPlaceRule, Lowering, type Rule } from "./lowering.ts";
import { rootOf } from "./uses.ts";
import { widthOf } from "./views.ts";

const bytesOf = (value: Value): number => sizeOf(value.shape) * widthOf(value);

/** Inputs: slices, captured values, what is made of these beforehand, first carries. */
export const scanRule: Rule = (lowering, node) => {
  const body = node.body!;
  const { count, carries, slices } = node.attrs as unknown as {
    count: number;
    carries: number;
    slices: number;
  };
  const inner = new Lowering(body, { ...lowering.options, exact: lowering.exact });
  inner.run();
  const initial = node.inputs.slice(0, carries).map((value) => lowering.dense(value));
  const stacked = node.inputs.slice(carries, carries + slices).map((v) => lowering.dense(v));
  const captured = node.inputs.slice(carries + slices);
  const views = captured.map((value) => lowering.dense(value));
  const prepared = inner.prepared.map(({ value, make }) => {
    const at = body.inputs.findIndex((input) => input.value === value) - 1 - slices;
    return make(lowering, views[at]!);
  });
  const outputs = node.outputs.map((value) => lowering.alloc(value));
  // A carry that cannot be written in place has two buffers that take turns.
  const second = body.states.map(({ value }, i) =>
    inner.inPlace[i] ? undefined : lowering.scratch(value.shape, value.dtype),
  );
  const turns = second.filter((view) => view !== undefined);
  const ints = [
    count,
    slices,
    views.length + prepared.length,
    carries,
    body.outputs.length,
    ...body.inputs.slice(1, 1 + slices).map(({ value }) => bytesOf(value)),
    ...body.states.flatMap(({ value }, i) => [bytesOf(value), Number(inner.inPlace[i])]),
    ...body.outputs.map(({ value }) => bytesOf(value)),
  ];
  lowering.builder.loop(
    [...stacked, ...views, ...prepared, ...initial],
    [...outputs, ...turns],
    ints,
    inner.builder,
  );
};

/** A carry's last value may lie where its first did, if the loop reads that nowhere else. */
export const scanInPlace: InPlaceRule = (node: GraphNode, state: Value, next: Value) => {
  const { carries } = node.attrs as unknown as { carries: number };
  const read = node.inputs.flatMap((value, i) => (rootOf(value) === state ? [i] : []));
  const [at] = read;
  return (
    read.length === 1 && at! < carries && node.inputs[at!] === state && node.outputs[at!] === next
  );
};
