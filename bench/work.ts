/**
 * @file What a compiled function has to do at least, and what a device can do at most: floating-point operations
 * of products, convolutions and attention, bytes that its kernels read and write, and the measured rates of a
 * large product and of a copy.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Device } from "../src/runtime/device.ts";
import { type Graph, type GraphNode, liveNodes } from "../src/runtime/graph.ts";
import { float32, sizeOf } from "../src/runtime/tensors.ts";
import { optimised } from "../src/runtime/torch/device.ts";
import { TORCH_RULES } from "../src/runtime/torch/lowering.ts";
import {
  type Instruction,
  type Plan,
  plannerFor,
  type Precision,
  type Slot,
} from "../src/runtime/torch/plan.ts";

/** Multiplications and additions of a node: products, convolutions and attention, all else is small. */
function flopsOfNode({ op, inputs, outputs, attrs }: GraphNode): number {
  const [a, b] = inputs.map(({ shape }) => shape);
  const out = outputs[0]!.shape;
  switch (op) {
    case "BatchMatMul":
      return 2 * sizeOf(out) * a!.at(attrs["transposeA"] ? -2 : -1)!;
    case "Conv":
      return (2 * sizeOf(out) * sizeOf(b!)) / b![4]!;
    case "ConvInputGrad":
      return (2 * sizeOf(a!) * sizeOf(b!)) / b![4]!;
    case "ConvFilterGrad":
      return (2 * sizeOf(b!) * sizeOf(out)) / out[4]!;
    case "CachedAttention": // on average half of the places are filled
      return 2 * sizeOf(a!) * b![2]!;
    case "Attention":
    case "AttentionGrad": {
      // Two products forward; five backward, as the scores are computed again. Half of them where causal.
      const pairs = sizeOf(a!) * b![2]!;
      return ((op === "Attention" ? 4 : 10) * pairs) / (attrs["causal"] ? 2 : 1);
    }
    default:
      return 0;
  }
}

/** Floating-point operations of one call. */
export function flopsOf(graph: Graph): number {
  return liveNodes(graph).reduce(
    (sum, node) =>
      sum + (node.body ? (node.attrs["count"] as number) * flopsOf(node.body) : flopsOfNode(node)),
    0,
  );
}

const BYTES = { f32: 4, bf16: 2, i32: 4, bool: 1, u8: 1 } as const;
/** Instructions that copy nothing. */
const VIEWS = new Set(["Reshape", "Transpose", "Slice", "ConcatStates", "Fill"]);

const sizeOfSlot = (slot: Slot) => (slot.opaque ? 0 : sizeOf(slot.shape) * BYTES[slot.type]);
const sizes = (slots: readonly Slot[]) => slots.reduce((sum, slot) => sum + sizeOfSlot(slot), 0);

/** Bytes that a kernel reads and writes. */
function bytesOfInstruction({ op, inputs, outputs, ints, body }: Instruction): number {
  if (body) {
    const [turns, carries, slices] = ints as [number, number, number];
    // Slices and outputs a turn, and first carries that are copied.
    const copied = inputs.slice(0, carries).filter((_, i) => !ints[3 + i]);
    const moved = [...inputs.slice(carries, carries + slices), ...outputs.slice(carries)];
    return turns * bytesOfPlan(body) + 2 * (sizes(copied) + sizes(moved));
  }
  switch (op) {
    case "GatherV2": // the rows that are taken
      return sizes(inputs.slice(1)) + 2 * sizes(outputs);
    case "CacheWrite": // the new rows
      return 2 * sizes(inputs.slice(1));
    case "CachedAttention": // on average half of the places are filled
      return sizes(inputs.slice(0, 1)) + sizes(inputs.slice(1, 3)) / 2 + sizes(outputs);
    case "CachedStep": {
      const [query, keys, key, values, value] = inputs as [Slot, Slot, Slot, Slot, Slot];
      return sizes([query, outputs[0]!]) + 2 * sizes([key, value]) + sizes([keys, values]) / 2;
    }
    default:
      return sizes(inputs) + sizes(outputs);
  }
}

const bytesOfPlan = (plan: Plan): number =>
  plan.instructions
    .filter(({ op, fixed }) => !VIEWS.has(op) && !fixed)
    .reduce((sum, each) => sum + bytesOfInstruction(each), 0);

/**
 * Bytes that the kernels of one call read and write, each tensor once a kernel; of a cache that fills up half, as
 * over the decoding of a whole sequence.
 */
export function bytesOf(graph: Graph, precision: Precision): number {
  const planner = plannerFor(graph, precision);
  planner.lower(TORCH_RULES);
  return bytesOfPlan(optimised(planner.finish(), { fused: true, cuda: true }));
}

/** What a device does in a second. */
export interface Ceilings {
  /** bfloat16 (or the device's precision) products of 8192³. */
  readonly flops: number;
  /** Bytes read and written by a sum of a vector and a number. */
  readonly bytes: number;
}

/** Measure the ceilings of an open device. */
export async function ceilingsOf(device: Device, side = 8192, values = 2 ** 28): Promise<Ceilings> {
  const chain = 8;
  const matrix = tf.variable(tf.fill([side, side], 1 / side), false) as tf.Variable<tf.Rank.R2>;
  const product = device.compile("ceiling-product", ({ x }) => {
    let y = tf.add(matrix, x!) as tf.Tensor2D;
    for (let k = 0; k < chain; k++) {
      y = tf.matMul(y, matrix);
    }
    return { y: tf.slice(y, [0, 0], [1, 1]) };
  });
  const vector = tf.variable(tf.zeros([values]), false);
  const copy = device.compile("ceiling-copy", ({ x }) => {
    vector.assign(tf.add(vector, x!));
    return {};
  });
  const best = async (run: () => Promise<unknown>): Promise<number> => {
    let seconds = Number.POSITIVE_INFINITY;
    for (let k = 0; k < 12; k++) {
      const begin = performance.now();
      await run();
      seconds = Math.min(seconds, (performance.now() - begin) / 1000);
    }
    return seconds;
  };
  const x = float32([], [0]);
  const flops = (chain * 2 * side ** 3) / (await best(() => product({ x })));
  const bytes = (8 * values) / (await best(() => copy({ x })));
  matrix.dispose();
  vector.dispose();
  return { flops, bytes };
}

/** "12.3 TFLOP (15.4 ms at 800 TFLOP/s), 45.1 GB (11.3 ms at 4.00 TB/s)" and their shares of a time. */
export function explainWork(
  work: { readonly flops: number; readonly bytes: number },
  ceilings: Ceilings,
  milliseconds: number,
): string {
  const products = (1000 * work.flops) / ceilings.flops;
  const moves = (1000 * work.bytes) / ceilings.bytes;
  const share = (part: number) => `${((100 * part) / milliseconds).toFixed(0)} %`;
  return (
    `${(work.flops / 1e12).toFixed(2)} TFLOP: ${products.toFixed(2)} ms at the measured ${(ceilings.flops / 1e12).toFixed(0)} TFLOP/s (${share(products)}); ` +
    `${(work.bytes / 1e9).toFixed(2)} GB read and written: ${moves.toFixed(2)} ms at the measured ${(ceilings.bytes / 1e12).toFixed(2)} TB/s (${share(moves)})`
  );
}
