/**
 * @file Tiny look-alikes of known data sets: each function writes a folder as the set's authors lay it
 * out, with a handful of items of a few frames. Frame t of every video is grey level 4t (support.ts).
 */

import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import sharp from "sharp";
import { frameRecord } from "../../src/data/containers/tfrecord.ts";
import { writeMp4 } from "../../src/data/video.ts";
import { numbered } from "./support.ts";

/** Videos are encoded once and copied. */
const encoded = new Map<string, string>();

async function video(path: string, frames = 20, side = 32, fps = 25): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const key = `${frames}/${side}/${fps}`;
  const made = encoded.get(key);
  if (made === undefined) {
    await writeMp4(path, numbered(frames, side, side), fps);
    encoded.set(key, path);
  } else {
    copyFileSync(made, path);
  }
}

/** Forget encoded videos when their folder goes away. */
export function forgetVideos(): void {
  encoded.clear();
}

function text(path: string, content: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}

async function picture(path: string, level: number, side = 24): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const data = Buffer.alloc(side * side * 3, level);
  await sharp(data, { raw: { width: side, height: side, channels: 3 } }).toFile(path);
}

const two = (n: number): string => String(n).padStart(2, "0");

export async function ucf101(root: string): Promise<void> {
  const classes = ["ApplyEyeMakeup", "ApplyLipstick", "HandstandPushups"];
  const lists = join(root, "ucfTrainTestlist");
  text(join(lists, "classInd.txt"), classes.map((name, i) => `${i + 1} ${name}\r\n`).join(""));
  for (const [c, name] of classes.entries()) {
    for (let group = 1; group <= 4; group++) {
      // The real set spells one class differently in lists and in files.
      const file = name === "HandstandPushups" ? "HandStandPushups" : name;
      await video(join(root, "UCF-101", name, `v_${file}_g${two(group)}_c01.avi`));
    }
    for (const fold of [1, 2, 3]) {
      const held = fold;
      const line = (group: number): string => `${name}/v_${name}_g${two(group)}_c01.avi`;
      const groups = [1, 2, 3, 4];
      const train = groups.filter((g) => g !== held).map((g) => `${line(g)} ${c + 1}\r\n`);
      append(join(lists, `trainlist0${fold}.txt`), train.join(""));
      append(join(lists, `testlist0${fold}.txt`), `${line(held)}\n`);
    }
  }
}

function append(path: string, content: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content, { flag: "a" });
}

export async function kinetics(root: string): Promise<void> {
  const head = "label,youtube_id,time_start,time_end,split\n";
  const rows = (split: string, ids: readonly string[]): string =>
    ids.map((id, i) => `${i % 2 ? '"playing ten pins, bowling"' : "abseiling"},${id},${i},${i + 10},${split}\n`).join(""); // biome-ignore format: one row
  text(join(root, "train.csv"), head + rows("train", ["0347ZoDXyP0", "abc-_123456", "gone_456789", "zzz"])); // biome-ignore format: one call
  text(join(root, "validate.csv"), head + rows("validate", ["val_0000001", "val_0000002"]));
  for (const [folder, id, i] of [
    ["train/abseiling", "0347ZoDXyP0", 0],
    ["train/playing ten pins, bowling", "abc-_123456", 1],
    ["train/playing ten pins, bowling", "zzz", 3],
    ["val/abseiling", "val_0000001", 0],
    ["val/x", "val_0000002", 1],
  ] as const) {
    const span = `${String(i).padStart(6, "0")}_${String(i + 10).padStart(6, "0")}`;
    await video(join(root, folder, `${id}_${span}.mp4`));
  }
}

export async function ssv2(root: string): Promise<void> {
  text(join(root, "labels.json"), JSON.stringify({ "Approaching something with your camera": "0", "Holding something next to something": "1" })); // biome-ignore format: one call
  const row = (id: string, thing: string) => ({ id, label: `holding ${thing} next to cup`, template: "Holding [something] next to [something]", placeholders: [thing, "cup"] }); // biome-ignore format: one row
  text(join(root, "train.json"), JSON.stringify([row("78687", "potato"), row("3", "pen")]));
  text(join(root, "validation.json"), JSON.stringify([{ id: "9", label: "approaching door with your camera", template: "Approaching [something] with your camera", placeholders: ["door"] }])); // biome-ignore format: one call
  text(join(root, "test.json"), JSON.stringify([{ id: "1420" }]));
  text(join(root, "test-answers.csv"), "1420;Holding something next to something\n");
  for (const id of ["78687", "3", "9", "1420"]) {
    await video(join(root, "20bn-something-something-v2", `${id}.webm`), 20, 32, 12);
  }
}

export async function hmdb51(root: string): Promise<void> {
  for (const name of ["brush_hair", "wave"]) {
    const lines = [1, 1, 2, 0].map((flag, i) => `${name}_nm_np1_ba_goo_${i}.avi ${flag} \n`);
    for (const fold of [1, 2, 3]) {
      text(join(root, "testTrainMulti_7030_splits", `${name}_test_split${fold}.txt`), lines.join("")); // biome-ignore format: one call
    }
    for (let i = 0; i < 4; i++) {
      await video(join(root, name, `${name}_nm_np1_ba_goo_${i}.avi`));
    }
  }
}

export async function kth(root: string): Promise<void> {
  for (const person of [1, 20, 21, 25]) {
    for (const action of ["boxing", "walking"]) {
      await video(join(root, action, `person${two(person)}_${action}_d1_uncomp.avi`));
    }
  }
}

export async function msrVtt(root: string): Promise<void> {
  const videos = [
    { video_id: "video0", split: "train", category: 9, "start time": 0, "end time": 10 },
    { video_id: "video1", split: "train", category: 0, "start time": 0, "end time": 10 },
    { video_id: "video2", split: "validate", category: 0, "start time": 0, "end time": 10 },
  ];
  const sentences = videos.flatMap(({ video_id }) => [0, 1, 2].map((i) => ({ video_id, caption: `caption ${i} of ${video_id}`, sen_id: i }))); // biome-ignore format: one call
  text(join(root, "train_val_annotation", "train_val_videodatainfo.json"), JSON.stringify({ videos, sentences })); // biome-ignore format: one call
  const test = [{ video_id: "video7", split: "test", category: 19 }];
  text(join(root, "test_videodatainfo.json"), JSON.stringify({ videos: test, sentences: [{ video_id: "video7", caption: "seven" }] })); // biome-ignore format: one call
  for (const name of [
    "TrainValVideo/video0",
    "TrainValVideo/video1",
    "TrainValVideo/video2",
    "TestVideo/video7",
  ]) {
    // biome-ignore format: one list
    await video(join(root, `${name}.mp4`));
  }
}

/** Protocol buffers by hand: a tf.train.Example of bytes and floats. */
function example(features: { readonly [name: string]: Buffer | readonly number[] }): Buffer {
  const varint = (n: number): Buffer => {
    const bytes: number[] = [];
    for (let rest = n; ; rest = Math.floor(rest / 128)) {
      if (rest < 128) {
        return Buffer.from([...bytes, rest]);
      }
      bytes.push((rest % 128) | 128);
    }
  };
  const field = (number: number, bytes: Buffer): Buffer =>
    Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
  const entries = Object.entries(features).map(([name, value]) => {
    const feature = Buffer.isBuffer(value)
      ? field(1, field(1, value))
      : field(2, field(1, Buffer.from(Float32Array.from(value as number[]).buffer)));
    return field(1, Buffer.concat([field(1, Buffer.from(name)), field(2, feature)]));
  });
  return field(1, Buffer.concat(entries));
}

/** Two training files of two records and one test file of one, of 6 frames of 16×16. */
export function bair(root: string, frames = 6, side = 16): void {
  const record = (seed: number): Buffer => {
    const features: { [name: string]: Buffer | number[] } = {};
    for (let t = 0; t < frames; t++) {
      features[`${t}/image_aux1/encoded`] = Buffer.alloc(side * side * 3, 4 * t + seed);
      features[`${t}/image_main/encoded`] = Buffer.alloc(side * side * 3, 200 - t);
      features[`${t}/action`] = [seed, t, 0.5, -1];
      features[`${t}/endeffector_pos`] = [t, seed, 0];
    }
    return frameRecord(example(features));
  };
  for (const [path, seeds] of [
    ["train/traj_0_to_255.tfrecords", [1, 2]],
    ["train/traj_256_to_511.tfrecords", [3, 4]],
    ["test/traj_0_to_255.tfrecords", [9]],
  ] as const) {
    const file = join(root, "softmotion30_44k", path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, Buffer.concat(seeds.map(record)));
  }
}

export async function nuscenes(root: string): Promise<void> {
  const scenes = ["scene-0001", "scene-0002", "scene-0003"];
  const samples: object[] = [];
  const data: object[] = [];
  for (const [s, scene] of scenes.entries()) {
    for (let i = 0; i < 3; i++) {
      const token = `${scene}/${i}`;
      samples.push({ token, scene_token: scene });
      // A key frame and two sweeps, out of order in the table.
      for (const k of [2, 0, 1]) {
        const number = i * 3 + k;
        const folder = k === 0 ? "samples" : "sweeps";
        const filename = `${folder}/CAM_FRONT/n${s}-${two(number)}.jpg`;
        data.push({ sample_token: token, timestamp: 1000 + number, filename });
        await picture(join(root, filename), 20 * number);
      }
      data.push({ sample_token: token, timestamp: 1000, filename: `samples/CAM_BACK/n${s}.jpg` });
    }
  }
  const table = (name: string, rows: unknown): void => {
    text(join(root, "v1.0-trainval", `${name}.json`), JSON.stringify(rows));
  };
  table(
    "scene",
    scenes.map((name) => ({ token: name, name, description: "Rain, turn left" })),
  );
  table("sample", samples);
  table("sample_data", data);
  text(join(root, "splits", "train.txt"), "scene-0001\nscene-0003\n");
  text(join(root, "splits", "val.txt"), "scene-0002\n");
}

export async function objectron(root: string): Promise<void> {
  for (const name of ["bike", "cup"]) {
    const lines = ["batch-0/1", "batch-0/2", "batch-1/0"].map((path) => `${name}/${path}`);
    text(join(root, "index", `${name}_annotations_train`), `${lines.slice(0, 2).join("\n")}\n`);
    text(join(root, "index", `${name}_annotations_test`), `${lines[2]}\n`);
    for (const line of lines) {
      await video(join(root, "videos", line, "video.MOV"), 20, 32, 30);
    }
  }
}

export async function davis(root: string): Promise<void> {
  for (const name of ["bear", "dance", "dog"]) {
    for (let t = 0; t < 6; t++) {
      await picture(join(root, "JPEGImages", "480p", name, `0000${t}.jpg`), 4 * t, 32);
    }
  }
  text(join(root, "ImageSets", "2017", "train.txt"), "bear\ndance\n");
  text(join(root, "ImageSets", "2017", "val.txt"), "dog\n");
}

/** Planar 4:2:0: luma of frame t is 16 + 10t, chroma neutral. */
function yuvFrames(frames: number, width: number, height: number, bits: number): Buffer {
  const unit = 2 ** (bits - 8);
  const chroma = 2 * ((width + 1) >> 1) * ((height + 1) >> 1);
  const samples = Array.from({ length: frames }, (_, t) => [
    ...Array.from({ length: width * height }, () => (16 + 10 * t) * unit),
    ...Array.from({ length: chroma }, () => 128 * unit),
  ]).flat();
  return bits > 8 ? Buffer.from(Uint16Array.from(samples).buffer) : Buffer.from(samples);
}

export function mclJcv(root: string): void {
  mkdirSync(root, { recursive: true });
  writeFileSync(join(root, "videoSRC01_24x16_30.yuv"), yuvFrames(5, 24, 16, 8));
  writeFileSync(join(root, "videoSRC02_25x17_24.yuv"), yuvFrames(5, 25, 17, 8)); // odd sides
  writeFileSync(join(root, "videoSRC03_24x16_30.yuv"), yuvFrames(5, 24, 16, 8).subarray(0, 700)); // cut
}

export function uvg(root: string): void {
  mkdirSync(root, { recursive: true });
  writeFileSync(join(root, "Beauty_24x16_120fps_420_8bit_YUV.yuv"), yuvFrames(5, 24, 16, 8));
  writeFileSync(join(root, "Jockey_24x16_120fps_420_10bit_YUV.yuv"), yuvFrames(5, 24, 16, 10));
  const frame = yuvFrames(1, 24, 16, 8);
  const head = Buffer.from("YUV4MPEG2 W24 H16 F120:1 Ip A1:1 C420jpeg\n");
  const y4m = Array.from({ length: 5 }, () => [Buffer.from("FRAME\n"), frame]).flat();
  writeFileSync(join(root, "HoneyBee.y4m"), Buffer.concat([head, ...y4m]));
}

export async function imagenet(root: string): Promise<void> {
  for (const [i, wnid] of ["n01440764", "n01443537"].entries()) {
    for (let k = 0; k < 3; k++) {
      await picture(join(root, "train", wnid, `${wnid}_${k}.JPEG`), 60 + 40 * i);
    }
    await picture(join(root, "val", `ILSVRC2012_val_0000000${i + 1}.JPEG`), 60 + 40 * i);
  }
  text(join(root, "LOC_val_solution.csv"), "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\nILSVRC2012_val_00000002,n01443537 1 2 3 4 n01443537 5 6 7 8\n"); // biome-ignore format: one call
  text(join(root, "LOC_synset_mapping.txt"), "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"); // biome-ignore format: one call
}

export async function miniImagenet(root: string): Promise<void> {
  for (const [list, classes] of [
    ["train", ["n01", "n02"]],
    ["val", ["n03"]],
    ["test", ["n04", "n05"]],
  ] as const) {
    const rows: string[] = [];
    for (const [c, name] of classes.entries()) {
      for (let i = 0; i < 4; i++) {
        rows.push(`${name}0000000${i}.jpg,${name}`);
        await picture(join(root, "images", `${name}0000000${i}.jpg`), 30 * c + 5 * i);
      }
    }
    text(join(root, `${list}.csv`), `filename,label\n${rows.join("\n")}\n`);
  }
}

export async function lsun(root: string): Promise<void> {
  for (const folder of [
    "bedroom_train/0/a",
    "bedroom_train/f",
    "church_outdoor_train/2",
    "bedroom_val/3",
  ]) {
    // biome-ignore format: one list
    await picture(join(root, folder, "abc.webp"), 90);
  }
}

export async function imageFolder(root: string): Promise<void> {
  for (const [i, name] of [
    "cat/a.png",
    "cat/b.jpg",
    "dog/c.webp",
    "dog/d.png",
    "dog/é – 犬.png",
  ].entries()) {
    // biome-ignore format: one list
    await picture(join(root, name), 40 * i);
  }
}

/** A ustar archive. */
export function tar(files: readonly (readonly [name: string, bytes: Buffer])[]): Buffer {
  const blocks = files.flatMap(([name, bytes]) => {
    const head = Buffer.alloc(512);
    head.write(name, 0, 100, "utf8");
    head.write("0000644\0", 100);
    head.write(`${bytes.length.toString(8).padStart(11, "0")}\0`, 124);
    head.write("        0ustar\0", 148);
    head.write("00", 263);
    const sum = head.reduce((total, byte) => total + byte, 0);
    head.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    return [head, bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)];
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

/** `shards` archives of `each` videos; sample k of all has label k mod 2. */
export async function webdataset(root: string, shards = 3, each = 3): Promise<void> {
  const { readFileSync } = await import("node:fs");
  const source = join(root, "source.mp4");
  await video(source);
  const bytes = readFileSync(source);
  for (let s = 0; s < shards; s++) {
    const files = Array.from({ length: each }, (_, i) => {
      const key = String(s * each + i).padStart(6, "0");
      return [
        [`${key}.cls`, Buffer.from(String((s * each + i) % 2))],
        [`${key}.json`, Buffer.from(JSON.stringify({ caption: `clip ${key}` }))],
        [`${key}.mp4`, bytes],
      ] as const;
    }).flat();
    writeFileSync(join(root, `clips-${String(s).padStart(6, "0")}.tar`), tar(files));
  }
}

/** Moving MNIST's array with few sequences: value of frame t of sequence n is 10t + n. */
export function movingMnistTest(root: string, sequences = 6, frames = 4, side = 16): void {
  const header = `{'descr': '|u1', 'fortran_order': False, 'shape': (${frames}, ${sequences}, ${side}, ${side}), }`; // biome-ignore format: one line
  const padded = `${header.padEnd(117, " ")}\n`;
  const head = Buffer.from("\x93NUMPY\x01\x00\x76\x00", "latin1");
  const data = Buffer.alloc(frames * sequences * side * side);
  for (let i = 0; i < frames * sequences; i++) {
    const level = 10 * Math.floor(i / sequences) + (i % sequences);
    data.fill(level, i * side * side, (i + 1) * side * side);
  }
  mkdirSync(root, { recursive: true });
  writeFileSync(join(root, "mnist_test_seq.npy"), Buffer.concat([head, Buffer.from(padded, "latin1"), data])); // biome-ignore format: one call
}

/** Byte c of pixel (y, x) in frame t of clip n of an `rgbArray`. */
export const rgbValue = (n: number, t: number, y: number, x: number, c: number): number =>
  [10 * x + n, 10 * y + t, 20 * n + 3 * t][c]!;

/** A .npy file of RGB clips [N, T, side, side, 3]; side and T are small enough for bytes. */
export function rgbArray(clips: number, frames: number, side: number): Buffer {
  const header = `{'descr': '|u1', 'fortran_order': False, 'shape': (${clips}, ${frames}, ${side}, ${side}, 3), }`; // biome-ignore format: one line
  const values = Uint8Array.from({ length: clips * frames * side * side * 3 }, (_, at) => {
    const [c, x, y] = [at % 3, Math.floor(at / 3) % side, Math.floor(at / 3 / side) % side];
    const frame = Math.floor(at / 3 / side / side);
    return rgbValue(Math.floor(frame / frames), frame % frames, y, x, c);
  });
  const head = Buffer.from("\x93NUMPY\x01\x00\x76\x00", "latin1");
  return Buffer.concat([head, Buffer.from(`${header.padEnd(117, " ")}\n`, "latin1"), values]);
}

/** A mono 16-bit wav file of a sine. */
export function sine(hertz: number, seconds: number, rate: number): Buffer {
  const length = Math.round(seconds * rate);
  const angle = (2 * Math.PI * hertz) / rate;
  return wav(
    Float32Array.from({ length }, (_, i) => (20_000 / 32_767) * Math.sin(angle * i)),
    rate,
  );
}

/** A mono 16-bit wav file of values in [-1, 1]. */
export function wav(wave: Float32Array, rate: number): Buffer {
  const samples = wave.length;
  const out = Buffer.alloc(44 + 2 * samples);
  out.write("RIFF", 0);
  out.writeUInt32LE(36 + 2 * samples, 4);
  out.write("WAVEfmt ", 8);
  out.writeUInt32LE(16, 16);
  out.writeUInt16LE(1, 20);
  out.writeUInt16LE(1, 22);
  out.writeUInt32LE(rate, 24);
  out.writeUInt32LE(2 * rate, 28);
  out.writeUInt16LE(2, 32);
  out.writeUInt16LE(16, 34);
  out.write("data", 36);
  out.writeUInt32LE(2 * samples, 40);
  for (let i = 0; i < samples; i++) {
    out.writeInt16LE(Math.round(32_767 * wave[i]!), 44 + 2 * i);
  }
  return out;
}

/** ESC-50 with two classes in two folds. */
export function esc50(root: string): void {
  const rows: string[] = [];
  for (const [target, category] of ["dog", "chirping_birds"].entries()) {
    for (const fold of [1, 2]) {
      const name = `${fold}-100032-A-${target}.wav`;
      rows.push(`${name},${fold},${target},${category},True,100032,A`);
      const path = join(root, "audio", name);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, sine(target === 0 ? 500 : 4000, 0.5, 16_000));
    }
  }
  text(join(root, "meta", "esc50.csv"), `filename,fold,target,category,esc10,src_file,take\n${rows.join("\n")}\n`); // biome-ignore format: one call
}

/** MNIST's IDX files: digit n of 12 is a bright square of label n mod 10. */
export function mnist(root: string): void {
  mkdirSync(root, { recursive: true });
  for (const name of ["train", "t10k"]) {
    const head = Buffer.alloc(16);
    head.set([0, 0, 8, 3]);
    head.writeUInt32BE(12, 4);
    head.writeUInt32BE(28, 8);
    head.writeUInt32BE(28, 12);
    const images = Buffer.alloc(12 * 784);
    for (let n = 0; n < 12; n++) {
      for (let y = 10; y < 18; y++) {
        images.fill(200 + n, n * 784 + y * 28 + 10, n * 784 + y * 28 + 18);
      }
    }
    writeFileSync(join(root, `${name}-images-idx3-ubyte`), Buffer.concat([head, images]));
    const labels = Buffer.alloc(8 + 12);
    labels.set([0, 0, 8, 1]);
    labels.writeUInt32BE(12, 4);
    labels.set(
      Array.from({ length: 12 }, (_, n) => n % 10),
      8,
    );
    writeFileSync(join(root, `${name}-labels-idx1-ubyte`), labels);
  }
}
