/**
 * @file Floating-point operations of functions, counted on their graphs: two for each multiply-add of
 * products, convolutions and attention, as papers count. Element-wise work, norms and reductions are left
 * out: next to the products they are small, and where they are not, bytes matter and not operations.
 * Masked attention is counted whole, and a cache at its full length.
 */

import { signature } from "./compiled.ts";
import type { Device } from "./device.ts";
import { type Graph, type GraphNode, liveNodes } from "./graph.ts";
import { openGraphDevice } from "./graph-device.ts";
import { sizeOf } from "./tensors.ts";

/** Operations of one call of a traced function. */
export function graphFlops(graph: Graph): number {
  return liveNodes(graph).reduce((total, node) => total + nodeFlops(node), 0);
}

function nodeFlops({ op, inputs, outputs, attrs, body }: GraphNode): number {
  const shape = (i: number) => inputs[i]!.shape;
  switch (op) {
    case "BatchMatMul":
      return 2 * sizeOf(outputs[0]!.shape) * shape(0).at(attrs["transposeA"] ? -2 : -1)!;
    case "Einsum":
      return (
        2 *
        einsumSize(
          attrs["equation"] as string,
          inputs.map((input) => input.shape),
        )
      );
    case "Conv": {
      // filter [kt, kh, kw, C / groups, C']: each output takes the taps of its own group.
      const filter = shape(1);
      return (2 * sizeOf(outputs[0]!.shape) * sizeOf(filter)) / filter.at(-1)!;
    }
    case "ConvInputGrad": {
      const filter = shape(1);
      return (2 * sizeOf(shape(0)) * sizeOf(filter)) / filter.at(-1)!;
    }
    case "ConvFilterGrad": {
      const filter = outputs[0]!.shape;
      return (2 * sizeOf(shape(1)) * sizeOf(filter)) / filter.at(-1)!;
    }
    case "Attention":
    case "CachedAttention":
      return attentionFlops(shape(0), shape(1), shape(2));
    case "AttentionGrad":
      // Scores once more, then the gradients of values, probabilities, queries and keys.
      return 2.5 * attentionFlops(shape(0), shape(1), shape(2));
    case "Scan":
      return (attrs["count"] as number) * (body ? graphFlops(body) : 0);
    default:
      return 0;
  }
}

/** Queries [B, H, N, D], keys [B, H, M, D], values [B, H, M, D']. */
function attentionFlops(
  query: readonly number[],
  key: readonly number[],
  value: readonly number[],
): number {
  const [b, h, n, d] = query as [number, number, number, number];
  return 2 * b * h * n * key[2]! * (d + value[3]!);
}

/** The product of the sides of all letters. */
function einsumSize(equation: string, shapes: readonly (readonly number[])[]): number {
  const sides = new Map<string, number>();
  equation
    .split("->")[0]!
    .split(",")
    .forEach((term, i) => {
      term.split("").forEach((letter, axis) => sides.set(letter, shapes[i]![axis]!));
    });
  return [...sides.values()].reduce((product, side) => product * side, 1);
}

/**
 * Operations of everything that `run` computes on the device it is given, which traces and gives zeros:
 * each call of a compiled function counts. Variables must be those of a device that compiles.
 */
export async function countFlops(run: (device: Device) => Promise<unknown>): Promise<number> {
  const { device, graphs } = await openGraphDevice();
  let total = 0;
  await run({
    ...device,
    compile(name, fn) {
      const inner = device.compile(name, fn);
      const known = new Map<string, number>();
      const call = async (inputs: Parameters<typeof inner>[0]) => {
        const key = JSON.stringify(signature(inputs));
        const before = graphs.length;
        const outputs = await inner(inputs);
        if (graphs.length > before) {
          known.set(key, graphFlops(graphs.at(-1)!));
        }
        total += known.get(key) ?? 0;
        return outputs;
      };
      return Object.defineProperty(call, "name", { value: name }) as typeof inner;
    },
  });
  return total;
}
