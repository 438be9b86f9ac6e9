/**
 * @file The tokenizer's compiled functions that suites share: each is compiled once for a device and
 * a tokenizer, whichever suite asks first. Weights are read at each call, so later training is seen.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Device } from "../runtime/device.ts";
import type { HostTensor } from "../runtime/tensors.ts";
import {
  hostCodeDecoder,
  hostDecoder,
  hostEncoder,
  hostReconstructor,
} from "../tokenizers/host.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";

/** Host-side functions of one tokenizer on one device. */
export interface TokenizerFunctions {
  /** [B, T, H, W, 3] uint8 to `ids` [B, t, h, w, F] and `codes` [B, t, h, w, D]. */
  readonly encode: (clips: HostTensor) => Promise<{ ids: Int32Array; codes: Float32Array }>;
  /** [B, T, H, W, 3] uint8 to decoded pixels [B, T, H, W, 3], not clipped. */
  readonly reconstruct: (clips: HostTensor) => Promise<Float32Array>;
  /** Ids [B, t, h, w, F] int32 to decoded pixels [B, T, H, W, 3], not clipped. */
  readonly decode: (ids: HostTensor) => Promise<Float32Array>;
  /** Codes [B, t, h, w, D] float32 to decoded pixels; not for external tokenizers. */
  readonly decodeCodes: (codes: HostTensor) => Promise<Float32Array>;
}

const known = new WeakMap<Device, WeakMap<Tokenizer, TokenizerFunctions>>();

/** Bytes [0, 255] to the models' range [-1, 1]; inside a compiled function. */
export function normalise(clips: tf.Tensor): tf.Tensor5D {
  return tf.sub(tf.div(tf.cast(clips, "float32"), 127.5), 1) as tf.Tensor5D;
}

/** The functions of `tokenizer` on `device`. */
export function tokenizerFunctions(device: Device, tokenizer: Tokenizer): TokenizerFunctions {
  let ofDevice = known.get(device);
  if (!ofDevice) {
    ofDevice = new WeakMap();
    known.set(device, ofDevice);
  }
  let functions = ofDevice.get(tokenizer);
  if (!functions) {
    functions = compile(device, tokenizer);
    ofDevice.set(tokenizer, functions);
  }
  return functions;
}

function compile(device: Device, tokenizer: Tokenizer): TokenizerFunctions {
  const encode = hostEncoder(device, tokenizer, "eval/encode");
  const reconstruct = hostReconstructor(device, tokenizer, "eval/reconstruct");
  const decode = hostDecoder(device, tokenizer, "eval/decode");
  const decodeCodes = hostCodeDecoder(device, tokenizer, "eval/decode-codes");
  return {
    async encode(clips) {
      const { ids, codes } = await encode(clips);
      return { ids: ids.data as Int32Array, codes: codes.data as Float32Array };
    },
    reconstruct: async (clips) => (await reconstruct(clips)).data as Float32Array,
    decode: async (ids) => (await decode(ids)).data as Float32Array,
    decodeCodes: async (codes) => (await decodeCodes(codes)).data as Float32Array,
  };
}
