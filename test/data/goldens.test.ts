/** @file Formats and conventions against independently computed values (test/goldens). */

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { planesToRgb, yuvToRgb } from "../../src/data/colour.ts";
import { tarMembers, webSamples } from "../../src/data/containers/tar.ts";
import {
  crc32c,
  maskedCrc,
  parseExample,
  recordOffsets,
  recordPayload,
} from "../../src/data/containers/tfrecord.ts";
import { hmdbList, ucfClasses, ucfList } from "../../src/data/layouts/actions.ts";
import {
  kineticsRows,
  ssv2Answers,
  ssv2Class,
  ssv2Classes,
} from "../../src/data/layouts/annotated.ts";
import { rawName } from "../../src/data/layouts/scenes.ts";
import { expandBraces } from "../../src/data/layouts/webdataset.ts";
import { reflected, svgPath } from "../../src/data/moving-mnist.ts";
import { type BilinearConvention, resizeBilinear } from "../../src/data/resize.ts";
import { cropStart, THREE_CROPS } from "../../src/data/scaler.ts";
import { videomaeViews, vjepaSegments } from "../../src/data/sampling.ts";

// oxlint-disable-next-line typescript/no-explicit-any -- goldens are plain JSON of many shapes
const golden = (name: string): any =>
  JSON.parse(readFileSync(new URL(`../goldens/${name}.json`, import.meta.url), "utf8"));
const reader = (bytes: Buffer) => (offset: number, length: number) =>
  bytes.subarray(offset, offset + length);

test("TFRecord: checksums, records and features", () => {
  const g = golden("tfrecord");
  expect(crc32c(Buffer.from("123456789"))).toBe(g.crc32c_123456789);
  expect(maskedCrc(Buffer.from("123456789"))).toBe(g.masked_crc_123456789);
  const file = Buffer.from(g.file_hex, "hex");
  expect(recordOffsets(reader(file), file.length)).toEqual({ offsets: [0] });
  const payload = recordPayload(file);
  expect(payload.length).toBe(g.payload_len);
  const features = parseExample(payload);
  for (const [t, wanted] of Object.entries<{ image_bytes: number[]; action: number[] }>(
    g.expected,
  )) {
    expect(features.get(`${t}/image_aux1/encoded`)).toMatchObject({ kind: "bytes", values: [Buffer.from(wanted.image_bytes)] }); // biome-ignore format: one call
    const action = features.get(`${t}/action`);
    expect(action?.kind === "floats" && Array.from(action.values)).toEqual(wanted.action);
  }
  expect(features.get("label")).toEqual({ kind: "ints", values: g.label_int64 });
  const damaged = Buffer.from(file);
  damaged[100]! ^= 1;
  expect(() => recordPayload(damaged)).toThrow(/payload is damaged/);
  expect(recordOffsets(reader(file.subarray(0, 200)), 200).problem).toMatch(/middle of record 0/);
});

test("WebDataset: keys, extensions, members that are no samples", () => {
  const g = golden("webdataset");
  const tar = Buffer.from(g.tar_base64, "base64");
  const { members, problem } = tarMembers(reader(tar), tar.length);
  expect(problem).toBeUndefined();
  const samples = webSamples(members).map(({ key, parts }) => {
    const out: { [name: string]: string } = { __key__: key };
    for (const [extension, { offset, size }] of parts) {
      const bytes = tar.subarray(offset, offset + size);
      const hex = /(mp4|png)$/.test(extension);
      out[hex ? `${extension}_hex` : extension] = bytes.toString(hex ? "hex" : "utf8");
    }
    return out;
  });
  expect(samples).toEqual(g.samples);
  expect(tarMembers(reader(tar.subarray(0, 1100)), 1100).problem).toMatch(/ends in the middle/);
  expect(() => webSamples([members[0]!, members[0]!])).toThrow(/two members/);
  expect(expandBraces("a-{08..11}.tar")).toEqual(["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]);
  expect(expandBraces("{x,y}-{0..1}")).toEqual(["x-0", "x-1", "y-0", "y-1"]);
});

test("YUV to RGB by the formula; planes of odd sides and of 10 bits", () => {
  const g = golden("yuv");
  for (const one of g.conversions) {
    const [y, u, v] = one.yuv as [number, number, number];
    for (const matrix of ["bt601", "bt709"] as const) {
      for (const range of ["limited", "full"] as const) {
        const rgb = yuvToRgb(y, u, v, matrix, range);
        for (const [c, value] of rgb.entries()) {
          expect(value).toBeCloseTo(one[`${matrix}_${range}_float`][c], 9);
        }
        for (const bits of [8, 10]) {
          const unit = 2 ** (bits - 8);
          const bytes = (value: number) => bits === 8 ? Uint8Array.of(value) : new Uint8Array(Uint16Array.of(value * unit).buffer); // biome-ignore format: one function
          const data = [bytes(y), bytes(u), bytes(v)];
          const planes = {
            width: 1,
            height: 1,
            data,
            strides: [2, 2, 2],
            bits,
            shiftX: 1,
            shiftY: 1,
          };
          expect(Array.from(planesToRgb(planes, matrix, range))).toEqual(one[`${matrix}_${range}`]);
        }
      }
    }
  }
});

test("lists of labels and splits", () => {
  const g = golden("labels");
  const classes = ucfClasses(g.ucf101.classInd);
  expect(ucfList(g.ucf101.trainlist01, classes)).toEqual(g.ucf101.parsed_train);
  expect(ucfList(g.ucf101.testlist01, classes)).toEqual(g.ucf101.parsed_test);
  expect(ssv2Classes(g.ssv2.labels)[2]).toBe("Bending something so that it deforms");
  expect(ssv2Class("Holding [something] next to [something]")).toBe("Holding something next to something"); // biome-ignore format: one call
  expect(ssv2Answers(g.ssv2.test_answers_csv).get("1420")).toBe("Holding something next to something"); // biome-ignore format: one call
  expect(kineticsRows(g.kinetics.csv)).toEqual([
    { file: "0347ZoDXyP0_000095_000105.mp4", label: "abseiling" },
    { file: "abc-_123456_000000_000010.mp4", label: "playing ten pins, bowling" },
  ]);
  expect(hmdbList(g.hmdb51.line)).toEqual([["April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "train"]]);
  expect(rawName("Beauty_1920x1080_120fps_420_10bit_YUV.yuv")).toEqual({ width: 1920, height: 1080, fps: 120, bits: 10 }); // biome-ignore format: one call
  expect(rawName("videoSRC17_1920x1080_24.yuv")).toEqual({ width: 1920, height: 1080, fps: 24, bits: 8 }); // biome-ignore format: one call
});

describe("clip sampling", () => {
  const g = golden("sampling");
  test("V-JEPA's segments", () => {
    for (const { n, fpc, step, clips, indices } of g.vjepa) {
      expect(vjepaSegments(n, fpc, step, clips)).toEqual(indices);
    }
    expect(vjepaSegments(100, 16, 4, 2, false)).toEqual(g.vjepa_no_overlap_100_2);
  });

  test("VideoMAE's views", () => {
    for (const [n, wanted] of [
      [300, g.videomae_k400],
      [50, g.videomae_short],
    ]) {
      const views = videomaeViews(n, 16, 4, 5);
      expect(views[0]).toEqual(wanted.first_view_frames);
      expect(views.at(-1)).toEqual(wanted.last_view_frames);
      const crops = THREE_CROPS.map((at) => cropStart(wanted.resized_long_side, 224, at));
      expect(crops).toEqual(wanted.crop_starts);
    }
  });
});

test("Moving MNIST's two motions", () => {
  const g = golden("moving_mnist");
  const [x, y] = g.tfds.start;
  const [vx, vy] = g.tfds.velocity;
  for (const [t, [px, py]] of (g.tfds.trajectory as [number, number][]).entries()) {
    expect(reflected(x + vx * t)).toBeCloseTo(px, 12);
    expect(reflected(y + vy * t)).toBeCloseTo(py, 12);
  }
  const { start_sx, start_sy, dx, dy, top_left_yx } = g.svg;
  const path = svgPath({ x: start_sx, y: start_sy, dx, dy }, 20, 64, 32);
  expect(path.map(({ y: top, x: left }) => [top, left])).toEqual(top_left_yx);
});

test("resizing by four conventions", () => {
  const g = golden("resize");
  const input = g.input as number[][];
  const names: { readonly [name: string]: BilinearConvention } = {
    tf1_legacy: "bilinear-tf1",
    half_pixel_torch_align_false: "bilinear-half-pixel",
    align_corners: "bilinear-align-corners",
    half_pixel_antialias: "bilinear-antialias",
  };
  const shape = [input.length, input[0]!.length, 1] as const;
  for (const one of g.cases) {
    for (const [name, convention] of Object.entries(names)) {
      const made = resizeBilinear(input.flat(), shape, one.out, convention);
      const wanted = (one[name] as number[][]).flat();
      for (const [i, value] of wanted.entries()) {
        expect(Math.abs(made[i]! - value), `${name} to ${one.out}`).toBeLessThan(1e-9);
      }
    }
  }
});
