/** @file PSNR and SSIM against values of numpy, scikit-image and torch. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { UserError } from "../../src/config/errors.ts";
import { type MsSsimName, msSsim } from "../../src/eval/ms-ssim.ts";
import { frameErrors, meanFrameClip, psnr, psnrPerFrame, psnrPooled } from "../../src/eval/psnr.ts";
import { type SsimName, ssim, ssimClip, ssimConventions, windowTaps } from "../../src/eval/ssim.ts";
import { distortedImage, fracsin, golden, mulberry, referenceImage } from "./golden.ts";

interface StillCase {
  shape: [number, number, number];
  mse_255: number;
  psnr: number;
  ssim_gauss11_valid_popcov: number;
  ssim_skimage_default_uniform7_samplecov: number;
  ssim_torchmetrics_new_reflectpad_fullmap: number;
  ssim_magvit_gray01_clamped?: number;
}

interface VideoCase {
  mse_per_frame: number[];
  psnr_per_frame_mean: number;
  psnr_pooled: number;
  ssim_mean: number;
}

/** The golden clip: five frames [T, H, W, 3] and their noisy copies. */
function goldenClip(): { reference: Uint8Array; distorted: Uint8Array } {
  const size = 32 * 40 * 3;
  const reference = new Uint8Array(5 * size);
  const distorted = new Uint8Array(5 * size);
  for (let t = 0; t < 5; t++) {
    const frame = referenceImage(3, 32, 40, 3 * t);
    reference.set(frame, t * size);
    distorted.set(distortedImage(frame, 3, 32, 40, 100 + t, 8 + 8 * t), t * size);
  }
  return { reference, distorted };
}

describe("golden inputs", () => {
  it("are the generators' own", () => {
    const rng = golden<{
      fracsin: number[];
      mulberry_seed7: number[];
      img_dist_3x4x6: number[][][];
    }>("rng");
    fracsin(12).forEach((value, i) => expect(value).toBeCloseTo(rng.fracsin[i]!, 10));
    expect(Array.from({ length: 8 }, (_, i) => mulberry(7, i))).toEqual(rng.mulberry_seed7);
    const image = distortedImage(referenceImage(3, 4, 6), 3, 4, 6);
    expect(
      [0, 1, 2].map((c) =>
        [0, 1, 2, 3].map((y) => [0, 1, 2, 3, 4, 5].map((x) => image[(y * 6 + x) * 3 + c])),
      ),
    ).toEqual(rng.img_dist_3x4x6);
  });
});

describe("PSNR and SSIM of pictures", () => {
  const { cases, gauss11_sigma1_5: taps } = golden<{
    cases: StillCase[];
    gauss11_sigma1_5: number[];
  }>("psnr_ssim");

  it("uses the Gaussian window of the goldens", () => {
    windowTaps("gaussian 11, sigma 1.5").forEach((tap, i) => expect(tap).toBeCloseTo(taps[i]!, 14));
  });

  it.each(cases)("agrees on $shape", (expected) => {
    const [channels, height, width] = expected.shape;
    const x = referenceImage(channels, height, width);
    const y = distortedImage(x, channels, height, width);
    const shape = { height, width, channels };
    const errors = frameErrors(x, y, 1);
    expect(errors[0]).toBeCloseTo(expected.mse_255, 9);
    expect(psnrPerFrame(errors)).toBeCloseTo(expected.psnr, 9);
    const close = (name: SsimName, value: number): void =>
      expect(Math.abs(ssim(x, y, shape, name) - value)).toBeLessThan(1e-9);
    close("gaussian-valid", expected.ssim_gauss11_valid_popcov);
    close("skimage7", expected.ssim_skimage_default_uniform7_samplecov);
    close("torchmetrics", expected.ssim_torchmetrics_new_reflectpad_fullmap);
    if (expected.ssim_magvit_gray01_clamped !== undefined) {
      close("magvit-gray", expected.ssim_magvit_gray01_clamped);
    }
  });
});

describe("PSNR and SSIM of clips", () => {
  const expected = golden<VideoCase>("video_psnr_ssim");
  const { reference, distorted } = goldenClip();

  it("averages per frame and pooled as named", () => {
    const errors = frameErrors(reference, distorted, 5);
    errors.forEach((error, t) => expect(error).toBeCloseTo(expected.mse_per_frame[t]!, 9));
    expect(psnrPerFrame(errors)).toBeCloseTo(expected.psnr_per_frame_mean, 9);
    expect(psnrPooled(errors)).toBeCloseTo(expected.psnr_pooled, 9);
    const shape = { height: 32, width: 40, channels: 3 };
    expect(ssimClip(reference, distorted, 5, shape, "gaussian-valid")).toBeCloseTo(
      expected.ssim_mean,
      9,
    );
  });

  it("predicts the mean frame at all times", () => {
    const clip = Uint8Array.of(0, 10, 1, 20, 3, 31);
    expect([...meanFrameClip(clip, 3, false)].slice(0, 2)).toEqual([4 / 3, 61 / 3]);
    expect([...meanFrameClip(clip, 3, true)]).toEqual([1, 20, 1, 20, 1, 20]);
  });
});

describe("multi-scale SSIM", () => {
  const { cases } = golden<{
    cases: { shape: [number, number, number]; [key: string]: unknown }[];
  }>("ms_ssim");

  it.each(cases)("agrees on $shape in every convention", (expected) => {
    const [channels, height, width] = expected.shape;
    const x = referenceImage(channels, height, width);
    const y = distortedImage(x, channels, height, width);
    const shape = { height, width, channels };
    const keys = {
      pytorch: "ms_ssim_pytorch_msssim",
      tf: "ms_ssim_tf",
      floor: "ms_ssim_floor_valid",
      torchmetrics: "ms_ssim_torchmetrics_reflect_imagemean",
    } as const;
    for (const [name, key] of Object.entries(keys) as [MsSsimName, string][]) {
      expect(Math.abs(msSsim(x, y, shape, name) - Number(expected[key]))).toBeLessThan(1e-9);
    }
    expect(() => msSsim(x, y, { ...shape, height: 160 }, "tf")).toThrow(/at least 161/);
  });
});

describe("odd input", () => {
  const flat = new Uint8Array(16 * 16 * 3).fill(80);
  const shape = { height: 16, width: 16, channels: 3 };

  it("gives constant and equal pictures defined values", () => {
    expect(psnr(0)).toBe(Number.POSITIVE_INFINITY);
    expect(psnrPerFrame(frameErrors(flat, flat, 1))).toBe(100);
    expect(psnrPooled(frameErrors(flat, flat, 1))).toBe(100);
    for (const name of Object.keys(ssimConventions) as SsimName[]) {
      expect(ssim(flat, flat, shape, name)).toBeCloseTo(1, 9);
    }
  });

  it("refuses sizes that differ, windows that do not fit and NaN", () => {
    const broken = Float32Array.from(flat).fill(Number.NaN, 5, 6);
    expect(() => frameErrors(flat, flat.subarray(3), 1)).toThrow(UserError);
    expect(() => frameErrors(flat, broken, 1)).toThrow(/not finite/);
    expect(() => ssim(flat, broken, shape, "gaussian-valid")).toThrow(/not finite/);
    const small = flat.subarray(0, 8 * 8 * 3);
    const sides = { height: 8, width: 8, channels: 3 };
    expect(() => ssim(small, small, sides, "gaussian-valid")).toThrow(/at least 11 x 11/);
    expect(ssim(small, small, sides, "skimage7")).toBeCloseTo(1, 12);
  });

  it("keeps SSIM symmetric, at most 1, and 1 only for equal pictures", () => {
    const picture = fc.uint8Array({ minLength: 12 * 13 * 3, maxLength: 12 * 13 * 3 });
    fc.assert(
      fc.property(
        picture,
        picture,
        fc.constantFrom(...(Object.keys(ssimConventions) as SsimName[])),
        (x, y, name) => {
          const sides = { height: 12, width: 13, channels: 3 };
          const value = ssim(x, y, sides, name);
          expect(value).toBeCloseTo(ssim(y, x, sides, name), 10);
          expect(value).toBeLessThanOrEqual(1 + 1e-9);
          expect(ssim(x, x, sides, name)).toBeCloseTo(1, 9);
        },
      ),
      { numRuns: 30 },
    );
  });
});
