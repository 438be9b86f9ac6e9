/**
 * @file A trained tokenizer as a video codec: frames to tokens to a file, and back. The tokens are the
 * code; the decoder's networks are the codec, known to both sides and named by a hash of their weights.
 */

import { createHash } from "node:crypto";
import { UserError } from "../../config/errors.ts";
import type { Scope } from "../../models/scope.ts";
import type { Objective } from "../../objectives/objective.ts";
import type { TokenPrior } from "../../objectives/prior.ts";
import type { Device } from "../../runtime/device.ts";
import { int32, uint8 } from "../../runtime/tensors.ts";
import type { Tokenizer } from "../../tokenizers/tokenizer.ts";
import { toBytes } from "../clips.ts";
import { tokenizerFunctions } from "../tokenize.ts";
import { type Bitstream, idsChecksum } from "./bitstream.ts";
import { cutSpan, joinSpan, type Tiling, tilingOf } from "./tiling.ts";
import { type CodeContext, type CodeName, decodeTokens, encodeTokens } from "./token-codes.ts";

/** The networks of a codec. */
export interface CodecNetworks {
  readonly device: Device;
  readonly tokenizer: Tokenizer;
  /** For code `prior`. */
  readonly objective?: Objective;
  /** Clips that go through a network at once. */
  readonly batch: number;
  readonly onProgress?: (what: string, clips: number, total: number | undefined) => void;
}

/** Tokens of a whole video, before they are coded. */
export interface TokenVideo {
  /** [clips, N, F]; clips by span, row and column. */
  readonly ids: Int32Array;
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  readonly fps: number;
}

/** 16 hex digits that change when a network's weights or shape do. */
function hashScope(scope: Scope, ...facts: readonly unknown[]): string {
  const hash = createHash("sha256").update(JSON.stringify(facts));
  for (const [name, variable] of [...scope.variables()].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const values = variable.dataSync() as Float32Array;
    hash.update(`${name}[${variable.shape.join(",")}]`);
    hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }
  return hash.digest("hex").slice(0, 16);
}

/** One tokenizer, and where there is one its prior, as a codec. */
export class TokenCodec {
  readonly #networks: CodecNetworks;
  readonly #prior: TokenPrior | undefined;
  readonly tokenizerHash: string;
  /** Undefined when the transformer gives no probabilities, or there is none. */
  readonly priorHash: string | undefined;

  constructor(networks: CodecNetworks) {
    const { device, tokenizer, objective } = networks;
    this.#networks = networks;
    this.#prior = objective?.prior?.(device);
    this.tokenizerHash = hashScope(tokenizer.scope, tokenizer.type, tokenizer.clip, tokenizer.grid, tokenizer.factors); // biome-ignore format: facts
    this.priorHash =
      objective && this.#prior
        ? hashScope(objective.scope, this.#prior.type, this.#prior.version, networks.batch)
        : undefined;
  }

  /** The codes that these networks allow. */
  get codes(): readonly CodeName[] {
    return ["uniform", "static", "adaptive", ...(this.#prior ? (["prior"] as const) : [])];
  }

  /** Frames of a span. */
  get spanFrames(): number {
    return this.#networks.tokenizer.clip.frames;
  }

  /**
   * Tokens of a video.
   * @param spans RGB bytes [n, H, W, 3], each of T frames, the last of at most T
   */
  async tokenize(
    spans: Iterable<Uint8Array>,
    video: { readonly height: number; readonly width: number; readonly fps: number },
  ): Promise<TokenVideo> {
    const { device, tokenizer, batch, onProgress } = this.#networks;
    const { frames: T, height: H, width: W } = tokenizer.clip;
    const { encode } = tokenizerFunctions(device, tokenizer);
    const tiling = tilingOf({ ...video, frames: T }, tokenizer.clip);
    const stride = this.#idsPerClip;
    const size = T * H * W * 3;
    const parts: Int32Array[] = [];
    let frames = 0;
    let clips = 0;
    for (const span of spans) {
      frames += span.length / (video.height * video.width * 3);
      const cut = cutSpan(span, tiling);
      const count = cut.length / size;
      for (let first = 0; first < count; first += batch) {
        const some = Math.min(batch, count - first);
        const pixels = new Uint8Array(batch * size);
        pixels.set(cut.subarray(first * size, (first + some) * size));
        const { ids } = await encode(uint8([batch, T, H, W, 3], pixels));
        parts.push(ids.slice(0, some * stride));
        clips += some;
        onProgress?.("tokenized", clips, undefined);
      }
    }
    const ids = new Int32Array(clips * stride);
    let at = 0;
    for (const part of parts) {
      ids.set(part, at);
      at += part.length;
    }
    return { ...video, ids, frames };
  }

  /** Code tokens. @throws UserError when these networks have no such code */
  async pack(video: TokenVideo, code: CodeName): Promise<Bitstream> {
    this.#checkCode(code);
    const { ids, ...rest } = video;
    return {
      ...rest,
      fps: Math.fround(video.fps),
      code,
      tokenizer: this.tokenizerHash,
      ...(code === "prior" && { prior: this.priorHash! }),
      idsChecksum: idsChecksum(ids),
      payload: await encodeTokens(
        code,
        ids,
        this.#context(
          ids.length / this.#idsPerClip,
          tilingOf(video, this.#networks.tokenizer.clip),
        ),
      ),
    };
  }

  /**
   * The tokens of a file.
   * @throws UserError when the file is of other networks, or does not decode to what was coded
   */
  async unpack(stream: Bitstream): Promise<TokenVideo> {
    const { payload, code, frames, height, width, fps } = stream;
    this.#checkCode(code);
    const expect = (what: string, found: string | undefined, wanted: string | undefined): void => {
      if (found !== wanted) {
        throw new UserError(
          `the file was coded with the ${what} ${found}, this run's is ${wanted}`,
          "give the run that it was compressed with; a run trained on has other weights",
        );
      }
    };
    expect("tokenizer", stream.tokenizer, this.tokenizerHash);
    if (code === "prior") {
      expect("transformer", stream.prior, this.priorHash);
    }
    const tiling = tilingOf({ frames, height, width }, this.#networks.tokenizer.clip);
    const clips = tiling.spans * tiling.rows * tiling.columns;
    const ids = await decodeTokens(code, payload, clips, this.#context(clips, tiling));
    if (idsChecksum(ids) !== stream.idsChecksum) {
      throw new UserError(
        "the tokens do not have the checksum that they were coded with",
        code === "prior"
          ? "a learned prior decodes only where it computes the same bits: the same device, thread count and version as when it was compressed (or use --code adaptive, which decodes anywhere)"
          : "the file is damaged: copy it again",
      );
    }
    return { ids, frames, height, width, fps };
  }

  /** The pictures of tokens, span by span: RGB bytes [n, H, W, 3]. */
  async *frames(video: TokenVideo): AsyncGenerator<Uint8Array> {
    const { device, tokenizer, batch, onProgress } = this.#networks;
    const { frames: T, height: H, width: W } = tokenizer.clip;
    const { decode } = tokenizerFunctions(device, tokenizer);
    const tiling = tilingOf(video, tokenizer.clip);
    const count = tiling.rows * tiling.columns;
    const stride = this.#idsPerClip;
    const size = T * H * W * 3;
    for (let s = 0; s < tiling.spans; s++) {
      const pixels = new Uint8Array(count * size);
      for (let first = 0; first < count; first += batch) {
        const some = Math.min(batch, count - first);
        const ids = new Int32Array(batch * stride);
        const from = (s * count + first) * stride;
        ids.set(video.ids.subarray(from, from + some * stride));
        const [t, h, w] = tokenizer.grid;
        const decoded = await decode(int32([batch, t, h, w, tokenizer.factors.length], ids));
        pixels.set(toBytes(decoded.subarray(0, some * size)), first * size);
        onProgress?.("decoded", s * count + first + some, tiling.spans * count);
      }
      yield joinSpan(pixels, s, tiling);
    }
  }

  get #idsPerClip(): number {
    const { grid, factors } = this.#networks.tokenizer;
    return grid[0] * grid[1] * grid[2] * factors.length;
  }

  #context(clips: number, { rows, columns }: Tiling): CodeContext {
    const { tokenizer, batch, onProgress } = this.#networks;
    const [t, h, w] = tokenizer.grid;
    const model = this.#prior;
    return {
      factors: tokenizer.factors,
      tokens: t * h * w,
      period: rows * columns,
      ...(model && {
        prior: { model, batch, onProgress: (done) => onProgress?.("coded", done, clips) },
      }),
    };
  }

  #checkCode(code: CodeName): void {
    if (!this.codes.includes(code)) {
      throw new UserError(
        `the code "${code}" needs a trained transformer that gives probabilities, and this run has none`,
        `use one of ${this.codes.join(", ")}, or a run with \`model\` and \`objective\``,
      );
    }
  }
}
