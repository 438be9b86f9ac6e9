/**
 * @file `scan`: a body that is traced once and run several times, each turn with the values that the last one
 * left. Decoding token after token is such a loop; its graph does not grow with the number of tokens.
 *
 * A device that lacks loops (`Device.loops`), and a function that is being differentiated, gets the body
 * `count` times instead. That is exact, and has gradients, at the price of a graph `count` times as long.
 */

import * as tf from "@tensorflow/tfjs-core";
import { tesseraBackend, valueOf } from "./backend.ts";
import type { TensorMap } from "./device.ts";
import { beginBody, endBody } from "./loops.ts";
import type { GraphTracer, Value } from "./graph.ts";
import { activeTracer } from "./tracing.ts";

/** The kernel's name among a device's features. */
export const SCAN = "TesseraScan";

type Named = { readonly [name: string]: tf.Tensor };

export interface ScanTurn {
  /** The same names, shapes and types as the carry that came in. */
  readonly carry: Named;
  /** What this turn gives besides. */
  readonly outputs?: Named;
}

export interface Scanned {
  /** What the last turn left. */
  readonly carry: TensorMap;
  /** The outputs of all turns: [count, ...] each. */
  readonly outputs: TensorMap;
}

/**
 * Run `body` `count` times.
 * @param count at least 1
 * @param carry what the first turn begins with
 * @param slices tensors [count, ...] of which turn i gets the i-th part
 * @param body gets the number of the turn ([1] int32), the carry and its slices. It may read variables
 *   but not assign them, and nothing made inside may be used outside but what it returns.
 * @throws Error where a carry changes its shape or type, or a slice is not `count` long
 */
export function scan(
  count: number,
  { carry, slices = {} }: { readonly carry: Named; readonly slices?: Named },
  body: (index: tf.Tensor1D, carry: TensorMap, slices: TensorMap) => ScanTurn,
): Scanned {
  if (!Number.isInteger(count) || count < 1) {
    throw new RangeError(`a scan has a whole number of turns from 1, not ${count}`);
  }
  for (const [name, { shape }] of Object.entries(slices)) {
    if (shape[0] !== count) {
      throw new RangeError(
        `the slices "${name}" of a scan of ${count} turns have the shape [${shape.join(", ")}]: expected [${count}, ...]`,
      );
    }
  }
  const tracer = activeTracer();
  const loop = tracer?.features.has(SCAN) && !differentiating();
  return loop ? looped(tracer!, count, carry, slices, body) : unrolled(count, carry, slices, body);
}

/** Whether operations are recorded for a gradient: a loop has none, the unrolled body has. */
function differentiating(): boolean {
  return (tf.engine().state as unknown as { gradientDepth: number }).gradientDepth > 0;
}

type TurnBody = Parameters<typeof scan>[2];

/** Refuses a turn that changes what it carries. */
function checkTurn(before: Named, { carry }: ScanTurn): void {
  const [had, has] = [Object.keys(before).sort().join(", "), Object.keys(carry).sort().join(", ")];
  if (had !== has) {
    throw new Error(`a scan's body was given the carries ${had} and returned ${has}`);
  }
  for (const [name, { shape, dtype }] of Object.entries(before)) {
    const after = carry[name]!;
    if (!tf.util.arraysEqual(shape, after.shape) || dtype !== after.dtype) {
      throw new Error(
        `the carry "${name}" of a scan was ${dtype} [${shape.join(", ")}] and became ${after.dtype} [${after.shape.join(", ")}]: it must stay as it is`,
      );
    }
  }
}

function unrolled(count: number, first: Named, slices: Named, body: TurnBody): Scanned {
  const tracer = activeTracer();
  const made = new Map<string, tf.Tensor[]>();
  let carry: Named = first;
  for (let i = 0; i < count; i++) {
    const own = mapped(slices, (tensor) => tf.squeeze(tf.slice(tensor, i, 1), [0]));
    if (tracer) {
      tracer.loops += 1;
    }
    let turn: ScanTurn;
    try {
      turn = body(tf.tensor1d([i], "int32"), { ...carry }, own);
    } finally {
      if (tracer) {
        tracer.loops -= 1;
      }
    }
    checkTurn(carry, turn);
    carry = turn.carry;
    for (const [name, tensor] of Object.entries(turn.outputs ?? {})) {
      made.set(name, [...(made.get(name) ?? []), tensor]);
    }
  }
  const outputs = Object.fromEntries([...made].map(([name, tensors]) => [name, tf.stack(tensors)]));
  return { carry: { ...carry }, outputs };
}

function looped(
  tracer: GraphTracer,
  count: number,
  first: Named,
  slices: Named,
  body: TurnBody,
): Scanned {
  const backend = tesseraBackend();
  const tensorOf = (value: Value): tf.Tensor =>
    tf.engine().makeTensorFromTensorInfo(backend.symbol(value));
  const named = (names: readonly string[], values: readonly Value[]): TensorMap =>
    Object.fromEntries(names.map((name, i) => [name, tensorOf(values[i]!)]));
  const carried = Object.keys(first);
  const sliced = Object.keys(slices);
  const initial = carried.map((name) => valueOf(first[name]!));
  const stacked = sliced.map((name) => valueOf(slices[name]!));
  const parts = stacked.map(({ shape, dtype }) => ({ shape: shape.slice(1), dtype }));
  const begun = beginBody(tracer, count, initial, parts);
  tracer.loops += 1;
  let turn: ScanTurn;
  try {
    turn = body(
      tensorOf(begun.index) as tf.Tensor1D,
      named(carried, begun.carries),
      named(sliced, begun.slices),
    );
  } finally {
    tracer.loops -= 1;
  }
  checkTurn(first, turn);
  const given = Object.keys(turn.outputs ?? {});
  const loop = endBody(
    tracer,
    begun,
    initial,
    stacked,
    carried.map((name) => valueOf(turn.carry[name]!)),
    given.map((name) => valueOf(turn.outputs![name]!)),
  );
  return { carry: named(carried, loop.carries), outputs: named(given, loop.outputs) };
}

function mapped(tensors: Named, fn: (tensor: tf.Tensor) => tf.Tensor): TensorMap {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, fn(tensor)]));
}
