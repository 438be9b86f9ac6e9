/**
 * @file ONNX lowering of scaled dot-product attention and its gradient. The gradient of the softmax
 * needs the row sums of P ∘ dP, which equal those of O ∘ dO (Dao et al. 2022, eq. 4): so it passes twice
 * over the [N, M] scores where the composition passes four times.
 */

import { causalBiasValues } from "../attention-bias.ts";
import type { GraphNode, Value } from "../graph.ts";
import type { Lowering, Rule } from "./lowering.ts";

interface Forward {
  /** Probabilities [B, h, N, M]. */
  readonly weights: string;
  /** [B, h, N, d]. */
  readonly output: string;
}

function forward(lowering: Lowering, node: GraphNode): Forward {
  const { g } = lowering;
  const [query, key, value] = node.inputs as [Value, Value, Value];
  const { scale, causal } = node.attrs as { scale: number; causal: boolean };
  const memo = `attention ${query.id} ${key.id} ${value.id} ${scale} ${causal}`;
  return lowering.once(memo, () => {
    const [q, k, v] = [query, key, value].map((x) => lowering.full(x));
    const scores = g.op("Microsoft:FusedMatMul", [q!, k!], { transB: 1, alpha: { float: scale } });
    const [queries, keys] = [query.shape[2]!, key.shape[2]!];
    const seen = causal
      ? g.op("Add", [
          scores,
          g.constant("float32", [queries, keys], causalBiasValues(queries, keys)),
        ])
      : scores;
    const weights = g.op("Softmax", [seen], { axis: -1 });
    return { weights, output: g.op("MatMul", [weights, v!]) };
  });
}

const attention: Rule = (lowering, node) => {
  lowering.set(node.outputs[0]!, forward(lowering, node).output);
};

const attentionGrad: Rule = (lowering, node) => {
  const { g } = lowering;
  const { weights, output } = forward(lowering, node);
  const [q, k, v, dy] = node.inputs.map((x) => lowering.full(x));
  const alpha = { float: node.attrs["scale"] as number };
  const dWeights = g.op("Microsoft:FusedMatMul", [dy!, v!], { transB: 1 }); // [B, h, N, M]
  const rowSums = lowering.reduce("ReduceSum", g.op("Mul", [dy!, output]), [3], true);
  const dScores = g.op("Mul", [weights, g.op("Sub", [dWeights, rowSums])]);
  const [dq, dk, dv] = node.outputs;
  lowering.set(dq!, g.op("Microsoft:FusedMatMul", [dScores, k!], { alpha }));
  lowering.set(dk!, g.op("Microsoft:FusedMatMul", [dScores, q!], { transA: 1, alpha }));
  lowering.set(dv!, g.op("Microsoft:FusedMatMul", [weights, dy!], { transA: 1 }));
};

export const attentionRules: { readonly [op: string]: Rule } = {
  Attention: attention,
  AttentionGrad: attentionGrad,
};
