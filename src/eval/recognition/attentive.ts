/**
 * @file V-JEPA's attentive classifier (Bardes et al. 2024): one learned query attends over a clip's
 * tokens, then an MLP and a linear layer give the classes. As in its code, the query is not normalised
 * and there is no output projection. With blocks of self-attention in front it is V-JEPA 2's probe
 * (Assran et al. 2025: three), and with all of it trained on pixels a small vision transformer.
 */

import * as tf from "@tensorflow/tfjs-core";
import { dense, layerNorm } from "../../models/layers.ts";
import { normal, type Scope } from "../../models/scope.ts";
import { attention, gelu } from "../../runtime/ops.ts";

const epsilon = 1e-5;
/** V-JEPA's initial deviation, of every matrix. */
const init = normal(0.02);

export interface BlockOptions {
  readonly width: number;
  readonly heads: number;
}

type Map3D = (x: tf.Tensor3D) => tf.Tensor3D;

/** [B, N, width] to [B, h, N, d]. */
function split(x: tf.Tensor, heads: number): tf.Tensor4D {
  const [b, n, width] = x.shape as [number, number, number];
  return tf.transpose(tf.reshape(x, [b, n, heads, width / heads]), [0, 2, 1, 3]);
}

/** [B, h, N, d] to [B, N, width]. */
function join(x: tf.Tensor4D): tf.Tensor3D {
  const [b, heads, n, d] = x.shape;
  return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [b, n, heads * d]);
}

function mlp(scope: Scope, width: number, gain: number): (x: tf.Tensor) => tf.Tensor {
  const into = dense(scope.child("in"), { inputs: width, outputs: 4 * width, init });
  const out = dense(scope.child("out"), {
    inputs: 4 * width,
    outputs: width,
    init: normal(0.02 * gain),
  });
  return (x) => out(gelu(into(x)));
}

/** A pre-norm block of self-attention. */
export function selfAttentionBlock(scope: Scope, { width, heads }: BlockOptions): Map3D {
  const map = (name: string) => dense(scope.child(name), { inputs: width, outputs: width, init });
  const [query, key, value, output] = [map("query"), map("key"), map("value"), map("output")];
  const norm1 = layerNorm(scope.child("norm1"), { width, epsilon });
  const norm2 = layerNorm(scope.child("norm2"), { width, epsilon });
  const feed = mlp(scope.child("mlp"), width, Math.SQRT1_2);
  return (x) => {
    const y = norm1(x);
    const mixed = attention(split(query(y), heads), split(key(y), heads), split(value(y), heads));
    const z = tf.add(x, output(join(mixed))) as tf.Tensor3D;
    return tf.add(z, feed(norm2(z)));
  };
}

export interface AttentiveOptions extends BlockOptions {
  readonly classes: number;
}

/** The classifier: tokens [B, N, width] to logits [B, classes]. */
export function attentiveClassifier(
  scope: Scope,
  { width, heads, classes }: AttentiveOptions,
): (tokens: tf.Tensor3D) => tf.Tensor2D {
  const asked = scope.param("query_token", [width], init);
  const norm1 = layerNorm(scope.child("norm1"), { width, epsilon });
  const query = dense(scope.child("query"), { inputs: width, outputs: width, init });
  const keyValue = dense(scope.child("key_value"), { inputs: width, outputs: 2 * width, init });
  const norm2 = layerNorm(scope.child("norm2"), { width, epsilon });
  const feed = mlp(scope.child("mlp"), width, Math.SQRT1_2);
  const classify = dense(scope.child("classes"), { inputs: width, outputs: classes, init });
  return (tokens) => {
    const [b] = tokens.shape;
    const q = tf.tile(tf.reshape(asked, [1, 1, width]), [b, 1, 1]) as tf.Tensor3D;
    const [key, value] = tf.split(keyValue(norm1(tokens)), 2, 2) as [tf.Tensor, tf.Tensor];
    const read = attention(split(query(q), heads), split(key, heads), split(value, heads));
    const h = tf.add(q, join(read)) as tf.Tensor3D; // [B, 1, width]
    const pooled = tf.add(h, feed(norm2(h)));
    return classify(tf.reshape(pooled, [b, width])) as tf.Tensor2D;
  };
}
