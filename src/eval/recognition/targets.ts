/**
 * @file What masked prediction is asked for, and what a classifier of pixels reads: the block of pixels
 * that each token stands for, and histograms of oriented gradients of it (Dalal & Triggs 2005) as
 * MaskFeat (Wei et al. 2022) predicts them.
 */

/** A clip's sides and the tokens' grid. */
export interface BlockGrid {
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  readonly grid: readonly [t: number, h: number, w: number];
}

/** Frames, rows and columns of the block of one token. */
export function blockSides({ frames, height, width, grid }: BlockGrid): [number, number, number] {
  return [Math.ceil(frames / grid[0]), height / grid[1], width / grid[2]];
}

/** Values of one block, three channels. */
export function blockValues(grid: BlockGrid): number {
  return 3 * blockSides(grid).reduce((product, side) => product * side, 1);
}

/**
 * Pixels of a clip [T, H, W, 3] by token: [t·h·w, values]. Where frames do not divide evenly the first
 * frame is repeated in front, as causal tokenizers see it.
 */
export function pixelBlocks(clip: Uint8Array, grid: BlockGrid): Uint8Array {
  const { frames, height, width } = grid;
  const [t, h, w] = grid.grid;
  const [bt, bh, bw] = blockSides(grid);
  const early = t * bt - frames;
  const out = new Uint8Array(t * h * w * bt * bh * bw * 3);
  let at = 0;
  for (let i = 0; i < t; i++) {
    for (let j = 0; j < h; j++) {
      for (let k = 0; k < w; k++) {
        for (let frame = i * bt; frame < (i + 1) * bt; frame++) {
          const source = Math.max(0, frame - early) * height;
          for (let row = j * bh; row < (j + 1) * bh; row++) {
            const from = ((source + row) * width + k * bw) * 3;
            out.set(clip.subarray(from, from + bw * 3), at);
            at += bw * 3;
          }
        }
      }
    }
  }
  return out;
}

/** Unsigned orientations of a histogram. */
const bins = 9;

/** Values of one token's histograms: nine bins for each channel. */
export const hogValues = 3 * bins;

/**
 * Histograms of oriented gradients by token, [t·h·w, 27]: gradients by central differences, each
 * weighted into the two nearest of nine unsigned orientations, summed over the block, length 1.
 */
export function hogBlocks(clip: Uint8Array, grid: BlockGrid): Float32Array {
  const { frames, height, width } = grid;
  const [t, h, w] = grid.grid;
  const [bt, bh, bw] = blockSides(grid);
  const early = t * bt - frames;
  const out = new Float32Array(t * h * w * hogValues);
  for (let frame = 0; frame < frames; frame++) {
    const i = Math.floor((frame + early) / bt);
    for (let y = 0; y < height; y++) {
      const [up, down] = [Math.max(0, y - 1), Math.min(height - 1, y + 1)];
      for (let x = 0; x < width; x++) {
        const [left, right] = [Math.max(0, x - 1), Math.min(width - 1, x + 1)];
        const cell = (i * h + Math.floor(y / bh)) * w + Math.floor(x / bw);
        for (let c = 0; c < 3; c++) {
          const at = (row: number, column: number): number =>
            clip[((frame * height + row) * width + column) * 3 + c]!;
          const gx = at(y, right) - at(y, left);
          const gy = at(down, x) - at(up, x);
          const size = Math.hypot(gx, gy);
          if (size === 0) {
            continue;
          }
          const angle = (((Math.atan2(gy, gx) / Math.PI) * bins) % bins) + bins;
          const low = Math.floor(angle);
          const share = angle - low;
          const base = cell * hogValues + c * bins;
          out[base + (low % bins)]! += size * (1 - share);
          out[base + ((low + 1) % bins)]! += size * share;
        }
      }
    }
  }
  for (let from = 0; from < out.length; from += bins) {
    let squares = 0;
    for (let k = from; k < from + bins; k++) {
      squares += out[k]! ** 2;
    }
    const length = Math.sqrt(squares) + 1e-6;
    for (let k = from; k < from + bins; k++) {
      out[k]! /= length;
    }
  }
  return out;
}
