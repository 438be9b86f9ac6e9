/**
 * @file YUV to RGB by the formula, in one place. With Kr, Kb of the matrix and Kg = 1 − Kr − Kb:
 * R = Y + 2(1 − Kr)·V, B = Y + 2(1 − Kb)·U, G = (Y − Kr·R − Kb·B) / Kg, where limited range means
 * Y = (y − 16) / 219, U, V = (c − 128) / 224 and full range y / 255, (c − 128) / 255, all times
 * 2^(bits − 8) for deeper samples. Chroma of 4:2:0 is repeated (nearest), never interpolated.
 * swscale computes in fixed point and interpolates chroma: close, but other bytes.
 */

export const matrices = {
  bt601: { kr: 0.299, kb: 0.114 },
  bt709: { kr: 0.2126, kb: 0.0722 },
  bt2020: { kr: 0.2627, kb: 0.0593 },
} as const;

export type Matrix = keyof typeof matrices;
export type Range = "limited" | "full";

/** One pixel: samples in units of 8 bits (a 10-bit sample divided by 4) to RGB, 1 = white, not clipped. */
export function yuvToRgb(
  y: number,
  u: number,
  v: number,
  matrix: Matrix,
  range: Range,
): [r: number, g: number, b: number] {
  const { kr, kb } = matrices[matrix];
  const limited = range === "limited";
  const luma = limited ? (y - 16) / 219 : y / 255;
  const cu = (u - 128) / (limited ? 224 : 255);
  const cv = (v - 128) / (limited ? 224 : 255);
  const r = luma + 2 * (1 - kr) * cv;
  const b = luma + 2 * (1 - kb) * cu;
  return [r, (luma - kr * r - kb * b) / (1 - kr - kb), b];
}

/** Planes of a frame as a decoder gives them. */
export interface Planes {
  readonly width: number;
  readonly height: number;
  /** Y, U, V; or Y alone. */
  readonly data: readonly Uint8Array[];
  /** Bytes from a row to the next. */
  readonly strides: readonly number[];
  /** Bits a sample; more than 8 are two bytes, little-endian, in the low bits. */
  readonly bits: number;
  /** Chroma is halved this often: 4:2:0 is (1, 1), 4:2:2 (1, 0), 4:4:4 (0, 0). */
  readonly shiftX: number;
  readonly shiftY: number;
}

/** A whole frame to RGB bytes [height, width, 3]: rounded to the nearest, clipped. */
export function planesToRgb(planes: Planes, matrix: Matrix, range: Range): Uint8Array {
  const { width, height, data, strides, bits, shiftX, shiftY } = planes;
  const wide = bits > 8;
  const unit = 1 / 2 ** (bits - 8);
  const out = new Uint8Array(width * height * 3);
  const sample = (plane: number, x: number, y: number): number => {
    const at = y * strides[plane]! + (wide ? 2 * x : x);
    const bytes = data[plane]!;
    return wide ? (bytes[at]! | (bytes[at + 1]! << 8)) * unit : bytes[at]!;
  };
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const [u, v] =
        data.length < 3
          ? [128, 128]
          : [sample(1, x >> shiftX, y >> shiftY), sample(2, x >> shiftX, y >> shiftY)];
      const rgb = yuvToRgb(sample(0, x, y), u, v, matrix, range);
      for (let c = 0; c < 3; c++) {
        out[to + c] = Math.min(255, Math.max(0, Math.round(rgb[c]! * 255)));
      }
    }
  }
  return out;
}
