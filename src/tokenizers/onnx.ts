/**
 * @file External tokenizers: an encoder and a decoder as ONNX files, whatever they were made with, run
 * by ONNX Runtime. The config declares what the files cannot say: the order of the clips' axes, the
 * range of their values, the token grid and the vocabulary. They are used in every evaluation and under
 * every objective like our own, and cannot be trained: set `trainer.tokenizer.steps` to 0.
 *
 * `tessera export` writes our own tokenizers in this form.
 */

import { existsSync } from "node:fs";
import type ort from "onnxruntime-node";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import { loadOrt } from "../runtime/onnx/library.ts";
import { float32, type HostTensor, int32, sizeOf } from "../runtime/tensors.ts";
import type { Problem } from "./cnn.ts";
import type { External } from "./host.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

export const schema = closed(
  {
    type: Type.Literal("onnx"),
    encoder: Type.String({ description: "ONNX file: clips to ids (and codes)." }),
    decoder: Type.String({ description: "ONNX file: ids (or codes) to clips." }),
    grid: Type.Array(Type.Integer({ minimum: 1 }), {
      minItems: 3,
      maxItems: 3,
      description: "Token grid (t, h, w) of a clip.",
    }),
    factors: Type.Array(Type.Integer({ minimum: 1, maximum: 65536 }), {
      minItems: 1,
      description: "Sizes of the sub-vocabularies.",
    }),
    causal: Type.Boolean({
      default: false,
      description: "Whether no token depends on later frames.",
    }),
    layout: Type.Union(
      [
        Type.Literal("BTHWC"),
        Type.Literal("BCTHW"),
        Type.Literal("BTCHW"),
        Type.Literal("BHWC"),
        Type.Literal("BCHW"),
      ],
      {
        default: "BCTHW",
        description:
          "Order of the clips' axes in both files. Without T the files take single frames, one after the other.",
      },
    ),
    range: Type.Array(Type.Number(), {
      minItems: 2,
      maxItems: 2,
      default: [-1, 1],
      description: "The values of black and of full intensity in both files.",
    }),
    ids_layout: Type.Union([Type.Literal("channels-last"), Type.Literal("channels-first")], {
      default: "channels-last",
      description:
        "Where the sub-ids of a token stand: [B, t, h, w, F] or [B, F, t, h, w]. The number of axes is free: only the order of the values counts.",
    }),
    batch: Type.Integer({
      minimum: 1,
      default: 1,
      description: "Clips (or frames) that the files take at a time.",
    }),
    encoder_input: Type.Optional(Type.String({ description: "Its name; else the first input." })),
    encoder_ids: Type.Optional(
      Type.String({ description: "Output that holds the ids; else the first." }),
    ),
    encoder_codes: Type.Optional(
      Type.String({
        description:
          "Output that holds codes [B, t, h, w, D] for probes, in ids_layout. Without it a token's code is its sub-ids as numbers.",
      }),
    ),
    code_width: Type.Optional(
      Type.Integer({ minimum: 1, description: "D, where encoder_codes is given." }),
    ),
    decoder_input: Type.Optional(
      Type.String({ description: "Input that takes the ids; else the first." }),
    ),
    decoder_output: Type.Optional(Type.String({ description: "Its name; else the first output." })),
  },
  { description: "An external tokenizer: two ONNX files with a declared interface." },
);

export type OnnxConfig = Static<typeof schema>;

/** Mistakes that show only against other keys or the disk. */
export function check(config: OnnxConfig, { frames }: ClipShape): Problem[] {
  const problems: Problem[] = [];
  if (!config.layout.includes("T") && config.grid[0] !== frames) {
    problems.push({
      path: "grid",
      message: `files that take single frames give ${frames} token frames for ${frames} frames, and the grid says ${config.grid[0]}`,
      hint: `use grid: [${frames}, ${config.grid[1]}, ${config.grid[2]}]`,
    });
  }
  if ((config.encoder_codes === undefined) !== (config.code_width === undefined)) {
    problems.push({
      path: "code_width",
      message: "encoder_codes and code_width belong together",
      hint: "give both or none",
    });
  }
  return problems;
}

/** Axis order of a layout in terms of [B, T, H, W, C]. */
function permutation(layout: OnnxConfig["layout"]): number[] {
  const whole = layout.includes("T") ? layout : layout.replace("B", "BT");
  return whole.split("").map((axis) => "BTHWC".indexOf(axis));
}

/** Row-major values with their axes in another order. */
export function permuted(
  values: Float32Array,
  shape: readonly number[],
  perm: readonly number[],
): Float32Array {
  const strides = shape.map((_, i) => sizeOf(shape.slice(i + 1)));
  const sides = perm.map((axis) => shape[axis]!);
  const steps = perm.map((axis) => strides[axis]!);
  const out = new Float32Array(values.length);
  const index = sides.map(() => 0);
  let from = 0;
  for (let to = 0; to < out.length; to++) {
    out[to] = values[from]!;
    for (let axis = sides.length - 1; axis >= 0; axis--) {
      index[axis]! += 1;
      from += steps[axis]!;
      if (index[axis]! < sides[axis]!) {
        break;
      }
      from -= steps[axis]! * sides[axis]!;
      index[axis] = 0;
    }
  }
  return out;
}

const inverse = (perm: readonly number[]): number[] => perm.map((_, i) => perm.indexOf(i));

/** One of the two files, opened when it is first used. */
class Model {
  #session: Promise<ort.InferenceSession> | undefined;

  constructor(
    readonly key: "encoder" | "decoder",
    readonly path: string,
  ) {}

  async session(): Promise<ort.InferenceSession> {
    if (!existsSync(this.path)) {
      throw new UserError(
        `tokenizer.${this.key}: there is no file ${this.path}`,
        "paths are relative to the folder that the program runs in",
      );
    }
    const { InferenceSession } = await loadOrt("the tokenizer's ONNX files need");
    this.#session ??= InferenceSession.create(this.path, { logSeverityLevel: 3 });
    try {
      return await this.#session;
    } catch (error) {
      throw new UserError(
        `tokenizer.${this.key}: ONNX Runtime cannot open ${this.path}: ${(error as Error).message}`,
        "check the file with another program, or export it for an older operator set",
      );
    }
  }

  /** Values in the element type that the file's input has. */
  async feed(
    name: string | undefined,
    data: Float32Array | Int32Array,
    shape: (rank: number | undefined) => readonly number[],
  ): Promise<{ session: ort.InferenceSession; feeds: { [input: string]: ort.Tensor } }> {
    const session = await this.session();
    const { Tensor } = await loadOrt("the tokenizer's ONNX files need");
    const input = name ?? session.inputNames[0]!;
    const found = session.inputMetadata.find((one) => one.name === input);
    if (!found?.isTensor) {
      throw new UserError(
        `tokenizer.${this.key}_input: ${this.path} has no input "${input}"`,
        `its inputs are ${session.inputNames.join(", ")}`,
      );
    }
    const sides = shape(found.shape.length);
    switch (found.type) {
      case "int64":
        return {
          session,
          feeds: { [input]: new Tensor(BigInt64Array.from(data, BigInt), sides) },
        };
      case "int32":
        return {
          session,
          feeds: { [input]: new Tensor("int32", Int32Array.from(data), sides) },
        };
      case "float32":
        return {
          session,
          feeds: { [input]: new Tensor("float32", Float32Array.from(data), sides) },
        };
      case "uint8":
        return {
          session,
          feeds: { [input]: new Tensor("uint8", Uint8Array.from(data), sides) },
        };
      default:
        throw new UserError(
          `tokenizer.${this.key}: the input "${input}" is of type ${found.type}`,
          "float32, int32, int64 and uint8 inputs are taken",
        );
    }
  }

  output(results: ort.InferenceSession.OnnxValueMapType, name: string | undefined, size: number) {
    const key = name ?? Object.keys(results)[0]!;
    const tensor = results[key] as ort.Tensor | undefined;
    if (!tensor) {
      throw new UserError(
        `tokenizer: ${this.path} has no output "${key}"`,
        `its outputs are ${Object.keys(results).join(", ")}`,
      );
    }
    const values = Float32Array.from(tensor.data as ArrayLike<number | bigint>, Number);
    if (values.length !== size) {
      throw new UserError(
        `tokenizer: the output "${key}" of ${this.path} is [${tensor.dims.join(", ")}], expected ${size} values`,
        "check grid, factors, layout and batch against the files",
      );
    }
    return values;
  }
}

/** Builds the tokenizer; the files are opened at the first use. It has no variables. */
export function build(config: OnnxConfig, clip: ClipShape, scope: Scope): Tokenizer {
  const { factors, batch } = config;
  const grid = config.grid as [number, number, number];
  const { frames, height, width } = clip;
  const byFrame = !config.layout.includes("T");
  const tokens = sizeOf(grid);
  const codeWidth = config.code_width ?? factors.length;
  const [low, high] = config.range as [number, number];
  const perm = permutation(config.layout);
  const encoderFile = new Model("encoder", config.encoder);
  const decoderFile = new Model("decoder", config.decoder);
  // What one item of the files is: a clip, or a frame of one.
  const seen = byFrame ? 1 : frames;
  const itemTokens = byFrame ? tokens / frames : tokens;
  const pixels = seen * height * width * 3;
  const first = config.ids_layout === "channels-first";
  const spread = (values: Float32Array, channels: number, toFirst: boolean): Float32Array =>
    first
      ? permuted(
          values,
          toFirst ? [batch, itemTokens, channels] : [batch, channels, itemTokens],
          [0, 2, 1],
        )
      : values;
  const tokenShape =
    (channels: number) =>
    (rank: number | undefined): number[] => {
      const [t, h, w] = byFrame ? [1, grid[1], grid[2]] : grid;
      const places =
        rank === undefined || rank >= 5 ? [t, h, w] : rank === 4 ? [h, w] : [itemTokens];
      // An axis for sub-ids is left out where the file has none.
      const axes = rank !== undefined && places.length + 1 === rank ? [] : [channels];
      if (rank === 4 && !byFrame) {
        return [batch, t, h, w];
      }
      return first ? [batch, ...axes, ...places] : [batch, ...places, ...axes];
    };

  /** Run `one` on runs of `batch` items; a last, shorter run is filled up with zeros. */
  async function inRuns(
    items: number,
    one: (start: number, count: number) => Promise<void>,
  ): Promise<void> {
    for (let start = 0; start < items; start += batch) {
      await one(start, Math.min(batch, items - start));
    }
  }

  const external: External = {
    async encode({ data, shape }) {
      const clips = shape[0]!;
      const items = byFrame ? clips * frames : clips;
      const ids = new Int32Array(clips * tokens * factors.length);
      const codes = new Float32Array(clips * tokens * codeWidth);
      await inRuns(items, async (start, count) => {
        const values = new Float32Array(batch * pixels);
        for (let i = 0; i < count * pixels; i++) {
          values[i] = low + ((data[start * pixels + i] as number) / 255) * (high - low);
        }
        const sides = [batch, seen, height, width, 3];
        const arranged = permuted(values, sides, perm);
        const own = perm.map((axis) => sides[axis]!);
        const shaped = byFrame ? own.filter((_, i) => perm[i] !== 1) : own;
        const { session, feeds } = await encoderFile.feed(
          config.encoder_input,
          arranged,
          () => shaped,
        );
        const results = await session.run(feeds);
        const found = spread(
          encoderFile.output(results, config.encoder_ids, batch * itemTokens * factors.length),
          factors.length,
          false,
        );
        const kept = found.subarray(0, count * itemTokens * factors.length);
        ids.set(kept, start * itemTokens * factors.length);
        if (config.encoder_codes !== undefined) {
          const size = batch * itemTokens * codeWidth;
          const given = spread(
            encoderFile.output(results, config.encoder_codes, size),
            codeWidth,
            false,
          );
          codes.set(
            given.subarray(0, count * itemTokens * codeWidth),
            start * itemTokens * codeWidth,
          );
        }
      });
      for (const [i, id] of ids.entries()) {
        if (id < 0 || id >= factors[i % factors.length]!) {
          throw new UserError(
            `tokenizer: the encoder gave the id ${id}, and factors allow 0 to ${factors[i % factors.length]! - 1}`,
            "correct tokenizer.factors",
          );
        }
      }
      if (config.encoder_codes === undefined) {
        codes.set(ids);
      }
      return {
        ids: int32([clips, ...grid, factors.length], ids),
        codes: float32([clips, ...grid, codeWidth], codes),
      };
    },

    async decode({ data, shape }): Promise<HostTensor> {
      const clips = shape[0]!;
      const items = byFrame ? clips * frames : clips;
      const length = itemTokens * factors.length;
      const out = new Float32Array(clips * frames * height * width * 3);
      await inRuns(items, async (start, count) => {
        const ids = new Float32Array(batch * length);
        ids.set(data.subarray(start * length, (start + count) * length));
        const { session, feeds } = await decoderFile.feed(
          config.decoder_input,
          spread(ids, factors.length, true),
          tokenShape(factors.length),
        );
        const results = await session.run(feeds);
        const values = decoderFile.output(results, config.decoder_output, batch * pixels);
        const sides = [batch, seen, height, width, 3];
        const back = permuted(
          values,
          perm.map((axis) => sides[axis]!),
          inverse(perm),
        );
        for (let i = 0; i < count * pixels; i++) {
          out[start * pixels + i] = ((back[i]! - low) / (high - low)) * 2 - 1;
        }
      });
      return float32([clips, frames, height, width, 3], out);
    },
  };

  const outside = (): never => {
    throw new UserError(
      "a tokenizer of type onnx cannot be part of a compiled function",
      "it can be evaluated, and transformers can learn its tokens; to train a tokenizer use another type",
    );
  };
  return {
    type: "onnx",
    scope,
    clip,
    causal: config.causal,
    streams: false,
    modality: "video",
    continuous: false,
    grid,
    factors,
    width: codeWidth,
    remedy: "",
    external,
    inputs: () => ({}),
    encode: outside,
    lookup: outside,
    decode: outside,
    loss: outside,
  };
}
