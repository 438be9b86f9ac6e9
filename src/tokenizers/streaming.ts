/**
 * @file Encoding and decoding of clips of any length, piece by piece, with a causal tokenizer. What a
 * piece needs of the past are the few frames that each layer looks back, so memory does not grow with
 * the length, and the pieces' results joined are those of the whole clip. C-ViViT looks back at all
 * frames and has places for those of its own clips: it takes clips up to that length.
 *
 * The first piece has 1 + s·n frames, later ones s·n, with s the temporal down-sampling; one of n
 * latents each (the first: 1 + n). A piece of another length is another compiled function.
 */

import type * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { withStream } from "../models/streaming.ts";
import type { Device } from "../runtime/device.ts";
import type { HostTensor, HostTensors } from "../runtime/tensors.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One direction of a stream. */
export interface Piecewise {
  /** The next piece. */
  push(piece: HostTensor): Promise<HostTensors>;
  /** Begin another clip. */
  reset(): void;
}

/** A function over pieces, compiled for first and later ones, with the kept frames passed along. */
function piecewise(
  device: Device,
  name: string,
  run: (piece: tf.Tensor) => { readonly [name: string]: tf.Tensor },
): Piecewise {
  const compiled = [true, false].map((first) =>
    device.compile(`${name}-${first ? "first" : "next"}`, ({ piece, ...inputs }) => {
      const kept = Object.keys(inputs).map((_, i) => inputs[`kept${i}`] as tf.Tensor);
      const stream = { first, kept, keeps: [] as tf.Tensor[] };
      const outputs = withStream(stream, () => run(piece!));
      const keeps = stream.keeps.map((frames, i) => [`kept${i}`, frames] as const);
      return { ...outputs, ...Object.fromEntries(keeps) };
    }),
  );
  let kept: HostTensors | undefined;
  return {
    async push(piece) {
      const all = await compiled[kept ? 1 : 0]!({ piece, ...kept });
      const [keeps, outputs] = [true, false].map((keep) =>
        Object.fromEntries(
          Object.entries(all).filter(([output]) => output.startsWith("kept") === keep),
        ),
      );
      kept = keeps!;
      return outputs!;
    },
    reset() {
      kept = undefined;
    },
  };
}

function assertStreams(tokenizer: Tokenizer): void {
  if (!tokenizer.causal || tokenizer.streams === false) {
    throw new UserError(
      `a tokenizer of type ${tokenizer.type} cannot take clips piece by piece`,
      "use a causal tokenizer: magvit2, vqgan, patches or cvivit, without a diffusion decoder",
    );
  }
}

/** Pieces of pixels [B, T, H, W, 3] float32 in [-1, 1] to `ids` and `codes`. */
export function streamEncoder(device: Device, tokenizer: Tokenizer): Piecewise {
  assertStreams(tokenizer);
  return piecewise(device, "stream-encode", (piece) => ({
    ...tokenizer.encode(piece as tf.Tensor5D),
  }));
}

/** Pieces of ids [B, t, h, w, F] int32 to `pixels` [B, T, H, W, 3], not clipped. */
export function streamDecoder(device: Device, tokenizer: Tokenizer): Piecewise {
  assertStreams(tokenizer);
  return piecewise(device, "stream-decode", (piece) => ({
    pixels: tokenizer.decode(tokenizer.lookup(piece as tf.Tensor5D)),
  }));
}
