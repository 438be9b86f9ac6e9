/**
 * @file A tokenizer's work on host tensors: bytes of clips (or waveforms) to ids and codes, ids to
 * pixels. Our own tokenizers are compiled for a device; external ones (onnx.ts) run by themselves.
 * Whoever needs tokens outside of a traced function asks here, so both kinds serve everywhere.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Device } from "../runtime/device.ts";
import type { HostTensor } from "../runtime/tensors.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** An encoder and a decoder that are no traceable functions. */
export interface External {
  /** [B, T, H, W, 3] uint8 to ids [B, t, h, w, F] int32 and codes [B, t, h, w, D] float32. */
  encode(clips: HostTensor): Promise<{ ids: HostTensor; codes: HostTensor }>;
  /** Ids [B, t, h, w, F] int32 to pixels [B, T, H, W, 3] in [-1, 1], not clipped. */
  decode(ids: HostTensor): Promise<HostTensor>;
}

/** What `encode` gets on the host as the tokenizer's input. */
function prepared({ modality }: Tokenizer, input: tf.Tensor): tf.Tensor5D {
  return modality === "audio"
    ? (input as tf.Tensor5D)
    : tf.sub(tf.mul(tf.cast(input, "float32"), 1 / 127.5), 1);
}

/** Clips [B, T, H, W, 3] uint8 (waveforms [B, N, 1, 1, 1] float32) to ids and codes. */
export function hostEncoder(device: Device, tokenizer: Tokenizer, name: string) {
  const { external } = tokenizer;
  if (external) {
    return (clips: HostTensor) => external.encode(clips);
  }
  const encode = device.compile(name, ({ clips }) => {
    const { ids, codes } = tokenizer.encode(prepared(tokenizer, clips!));
    return { ids, codes };
  });
  return async (clips: HostTensor): Promise<{ ids: HostTensor; codes: HostTensor }> => {
    const { ids, codes } = await encode({ clips });
    return { ids: ids!, codes: codes! };
  };
}

/** As `hostEncoder`, the ids only. */
export function hostIds(device: Device, tokenizer: Tokenizer, name: string) {
  const { external } = tokenizer;
  if (external) {
    return async (clips: HostTensor): Promise<HostTensor> => (await external.encode(clips)).ids;
  }
  const encode = device.compile(name, ({ clips }) => ({
    ids: tokenizer.encode(prepared(tokenizer, clips!)).ids,
  }));
  return async (clips: HostTensor): Promise<HostTensor> => (await encode({ clips }))["ids"]!;
}

/** Ids [B, t, h, w, F] int32 to pixels [B, T, H, W, 3] (or waveforms), not clipped. */
export function hostDecoder(device: Device, tokenizer: Tokenizer, name: string) {
  const { external } = tokenizer;
  if (external) {
    return (ids: HostTensor) => external.decode(ids);
  }
  const decode = device.compile(name, ({ ids }) => ({
    pixels: tokenizer.decode(tokenizer.lookup(ids as tf.Tensor5D)),
  }));
  return async (ids: HostTensor): Promise<HostTensor> => (await decode({ ids }))["pixels"]!;
}

/** Codes [B, t, h, w, D] float32 to pixels [B, T, H, W, 3], not clipped. Not for external tokenizers. */
export function hostCodeDecoder(device: Device, tokenizer: Tokenizer, name: string) {
  const decode = device.compile(name, ({ codes }) => ({
    pixels: tokenizer.decode(codes as tf.Tensor5D),
  }));
  return async (codes: HostTensor): Promise<HostTensor> => (await decode({ codes }))["pixels"]!;
}

/** Clips to their reconstructions, without a detour over the host where there is none. */
export function hostReconstructor(device: Device, tokenizer: Tokenizer, name: string) {
  const { external } = tokenizer;
  if (external) {
    return async (clips: HostTensor) => external.decode((await external.encode(clips)).ids);
  }
  const reconstruct = device.compile(name, ({ clips }) => ({
    pixels: tokenizer.decode(tokenizer.encode(prepared(tokenizer, clips!)).codes),
  }));
  return async (clips: HostTensor): Promise<HostTensor> =>
    (await reconstruct({ clips }))["pixels"]!;
}
