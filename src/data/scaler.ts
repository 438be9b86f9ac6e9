/**
 * @file Frames to pixels: colours converted, scaled to cover the crop, turned upright, cropped and
 * mirrored. swscale runs in its bit-exact mode; the same frame gives the same bytes.
 */

import type { Frame, SoftwareScaleContext } from "node-av/lib";
import { type Av, avCheck } from "./av.ts";
import { type Matrix, type Planes, planesToRgb, type Range } from "./colour.ts";
import { MediaError } from "./probe.ts";
import { type BilinearConvention, bilinearConventions, resizeBilinear } from "./resize.ts";
import type { Filter } from "./sampling.ts";

/** What a clip's pixels are. */
export interface PixelRule {
  readonly height: number;
  readonly width: number;
  /** The shorter side before the crop; undefined: as small as covers the crop. */
  readonly resize: number | undefined;
  readonly filter: Filter;
  readonly colour: "auto" | Matrix;
  readonly range: "auto" | Range;
  readonly conversion: "swscale" | "formula";
}

/** Where a clip is cropped. */
export interface Crop {
  /** Between the two ends, (x, y) in [0, 1). */
  readonly at: readonly [number, number];
  readonly flip: boolean;
}

/** A picture's axes on the screen: output (x, y) comes from source (x·xx + y·xy, x·yx + y·yy). */
export interface Turn {
  readonly xx: number;
  readonly xy: number;
  readonly yx: number;
  readonly yy: number;
}

/** The rotation or mirroring that a container or a picture asks players for. */
export function turnOf(matrix: Buffer | null): Turn {
  const identity = { xx: 1, xy: 0, yx: 0, yy: 1 };
  if (!matrix || matrix.length < 36) {
    return identity;
  }
  const at = (i: number): number => Math.sign(Math.round(matrix.readInt32LE(i * 4) / 65536));
  // The matrix takes (x, y) to (a·x + c·y, b·x + d·y); for turns the inverse is the transpose.
  const turn = { xx: at(0), xy: at(1), yx: at(3), yy: at(4) };
  const axes = Math.abs(turn.xx * turn.yy - turn.xy * turn.yx);
  const simple = Math.abs(turn.xx) + Math.abs(turn.xy) === 1;
  return axes === 1 && simple ? turn : identity;
}

/** The first pixel of a crop of `size` from `whole` pixels; `at` in [0, 1) between the two ends. */
export function cropStart(whole: number, size: number, at: number): number {
  return Math.floor(at * (whole - size + 1));
}

/** The size that a picture of `wide` × `high` is scaled to before the crop. */
export function targetSize(
  { height, width, resize }: PixelRule,
  wide: number,
  high: number,
): { readonly sourceW: number; readonly sourceH: number } {
  const cover = Math.max(width / wide, height / high);
  const scale = resize === undefined ? cover : Math.max(cover, resize / Math.min(wide, high));
  return {
    sourceW: Math.max(width, Math.round(wide * scale)),
    sourceH: Math.max(height, Math.round(high * scale)),
  };
}

/** Where the k-th of three crops along the longer side lies: both ends and the middle. */
export const THREE_CROPS = [0, 0.5, 1 - 1e-9] as const;

const isConvention = (filter: Filter): filter is BilinearConvention =>
  filter in bilinearConventions;

/** Where the pixels of a frame go. */
interface Target {
  /** Size of the scaled picture as it is stored, before it is turned. */
  readonly sourceW: number;
  readonly sourceH: number;
  readonly left: number;
  readonly top: number;
}

/** A frame that swscale writes into, and its bytes, which are seen without copying. */
interface Scaled extends Pixels {
  readonly frame: Frame;
  readonly width: number;
  readonly height: number;
}

/** RGB bytes and how many of them lie between the beginnings of two rows. */
interface Pixels {
  readonly data: Uint8Array;
  readonly stride: number;
}

/** Scales frames to cover the crop, turns them upright and cuts the crop out. */
export class FrameScaler {
  readonly #av: Av;
  readonly #rule: PixelRule;
  /** May change from clip to clip. */
  crop: Crop;
  readonly #turn: Turn;
  readonly #aspect: number;
  readonly #scaler: SoftwareScaleContext;
  #scaled: Scaled | undefined;

  /** @param aspect width of a pixel over its height */
  constructor(av: Av, rule: PixelRule, crop: Crop, turn: Turn, aspect: number) {
    this.#av = av;
    this.#rule = rule;
    this.crop = crop;
    this.#turn = turn;
    this.#aspect = aspect;
    this.#scaler = new av.SoftwareScaleContext();
    this.#scaler.allocContext();
    const filter = isConvention(rule.filter) ? "bicubic" : rule.filter;
    const flags = `${filter}+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp`;
    avCheck(av, this.#scaler.setOption("sws_flags", flags), "setting the scaler's flags");
  }

  /** Scale, turn and crop one frame into `out` [H, W, 3]. */
  write(frame: Frame, out: Uint8Array): void {
    const target = this.#target(frame);
    const { sourceW, sourceH } = target;
    const { filter, conversion } = this.#rule;
    const c = this.#av.c;
    // A frame's colours stay as they are unless the config names others.
    if (this.#rule.colour !== "auto") {
      frame.colorSpace = { bt601: c.AVCOL_SPC_SMPTE170M, bt709: c.AVCOL_SPC_BT709, bt2020: c.AVCOL_SPC_BT2020_NCL }[this.#rule.colour]; // biome-ignore format: one map
    }
    if (this.#rule.range !== "auto") {
      frame.colorRange = this.#rule.range === "full" ? c.AVCOL_RANGE_JPEG : c.AVCOL_RANGE_MPEG;
    }
    if (conversion === "swscale" && !isConvention(filter)) {
      this.#place(this.#scale(frame, sourceW, sourceH), target, out);
      return;
    }
    const { width, height } = frame;
    const rgb =
      conversion === "formula" && this.#isYuv(frame)
        ? planesToRgb(this.#planes(frame), this.#matrix(frame), this.#range(frame))
        : packed(this.#scale(frame, width, height), width, height);
    if (isConvention(filter)) {
      const sized =
        width === sourceW && height === sourceH
          ? rgb
          : Uint8Array.from(
              resizeBilinear(rgb, [height, width, 3], [sourceH, sourceW], filter),
              (value) => Math.min(255, Math.max(0, Math.round(value))),
            );
      this.#place({ data: sized, stride: sourceW * 3 }, target, out);
    } else {
      const whole = this.#av.Frame.fromVideoBuffer(Buffer.from(rgb.buffer), {
        width,
        height,
        format: c.AV_PIX_FMT_RGB24,
      });
      this.#place(this.#scale(whole, sourceW, sourceH), target, out);
      whole.free();
    }
  }

  #target(frame: Frame): Target {
    const across = this.#turn.xx === 0; // width and height change places
    // Shown size: square pixels, upright.
    const wide = frame.width * this.#aspect;
    const [shownW, shownH] = across ? [frame.height, wide] : [wide, frame.height];
    const { height, width } = this.#rule;
    const { sourceW: w, sourceH: h } = targetSize(this.#rule, shownW, shownH);
    const [x, y] = this.crop.at;
    return {
      sourceW: across ? h : w,
      sourceH: across ? w : h,
      left: cropStart(w, width, x),
      top: cropStart(h, height, y),
    };
  }

  /** Cut the crop out of a scaled picture [sourceH, sourceW, 3]. */
  #place({ data, stride }: Pixels, { sourceW, sourceH, left, top }: Target, out: Uint8Array): void {
    const { height, width } = this.#rule;
    const { xx, xy, yx, yy } = this.#turn;
    const { flip } = this.crop;
    if (xx === 1 && yy === 1 && !flip) {
      for (let i = 0; i < height; i++) {
        const from = (top + i) * stride + left * 3;
        out.set(data.subarray(from, from + width * 3), i * width * 3);
      }
      return;
    }
    const originX = xx + xy < 0 ? sourceW - 1 : 0;
    const originY = yx + yy < 0 ? sourceH - 1 : 0;
    for (let i = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        const [x, y] = [left + (flip ? width - 1 - j : j), top + i];
        const from = (originY + x * yx + y * yy) * stride + (originX + x * xx + y * xy) * 3;
        const to = (i * width + j) * 3;
        out[to] = data[from]!;
        out[to + 1] = data[from + 1]!;
        out[to + 2] = data[from + 2]!;
      }
    }
  }

  /** RGB of [height, width]; overwritten by the next. Colour matrix and range are the frame's own. */
  #scale(frame: Frame, width: number, height: number): Pixels {
    if (this.#scaled?.width !== width || this.#scaled.height !== height) {
      this.#scaled?.frame.free();
      const made = new this.#av.Frame();
      made.alloc();
      made.format = this.#av.c.AV_PIX_FMT_RGB24;
      made.width = width;
      made.height = height;
      avCheck(this.#av, made.getBuffer(), "allocating a picture");
      this.#scaled = {
        frame: made,
        width,
        height,
        data: made.data![0]!,
        stride: made.linesize[0]!,
      };
    }
    const scaled = this.#scaled;
    avCheck(this.#av, this.#scaler.scaleFrameSync(scaled.frame, frame), "scaling a picture");
    return scaled;
  }

  #isYuv(frame: Frame): boolean {
    return /^(yuvj?4|gray)/.test(this.#av.avGetPixFmtName(frame.format as never) ?? "");
  }

  #planes(frame: Frame): Planes {
    const name = this.#av.avGetPixFmtName(frame.format as never) ?? "";
    const parts = /^(?:yuvj?(420|422|444|440)p|gray)(\d+)?(le)?$/.exec(name);
    if (!parts || !frame.data) {
      throw new MediaError(`has samples ${name}, which conversion: formula does not know`);
    }
    const [, chroma] = parts;
    return {
      width: frame.width,
      height: frame.height,
      data: frame.data,
      strides: frame.linesize,
      bits: parts[2] ? Number(parts[2]) : 8,
      shiftX: chroma === "420" || chroma === "422" ? 1 : 0,
      shiftY: chroma === "420" || chroma === "440" ? 1 : 0,
    };
  }

  #matrix({ colorSpace }: Frame): Matrix {
    const { c } = this.#av;
    return colorSpace === c.AVCOL_SPC_BT709
      ? "bt709"
      : colorSpace === c.AVCOL_SPC_BT2020_NCL
        ? "bt2020"
        : "bt601";
  }

  #range(frame: Frame): Range {
    const name = this.#av.avGetPixFmtName(frame.format as never) ?? "";
    const full = frame.colorRange === this.#av.c.AVCOL_RANGE_JPEG || name.startsWith("yuvj");
    return full ? "full" : "limited";
  }

  close(): void {
    this.#scaled?.frame.free();
    this.#scaler.freeContext();
  }
}

/** The bytes of a picture without gaps between rows. */
function packed({ data, stride }: Pixels, width: number, height: number): Uint8Array {
  const out = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    out.set(data.subarray(y * stride, y * stride + width * 3), y * width * 3);
  }
  return out;
}
