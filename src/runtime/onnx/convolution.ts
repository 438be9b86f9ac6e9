/**
 * @file ONNX lowering of 3D convolutions and their gradients.
 *
 * A 3D convolution is 2D convolutions of frames, mixed over time by small constant matrices. The
 * mixing products also do the zero padding, the strides and the gathering of frames, so no clip is
 * ever padded or sliced along time. Two ways over time:
 *  - exact: the frames under the taps are stacked as channels of one 2D convolution;
 *  - fast: Cook-Toom (bilinear.ts), in steps that are differentiated.
 * The 2D convolutions run in ONNX Runtime's blocked format where the channels fit, which is its
 * fastest; filter gradients are products of shifted images, which beat every convolution form.
 */

import { type ConvAttrs, convSides } from "../kernels.ts";
import type { GraphNode, Shape, Value } from "../graph.ts";
import { type TemporalPlan, temporalPlan } from "./bilinear.ts";
import type { Lowering, Rule } from "./lowering.ts";

type Pads = readonly [number, number];

/** A batch of images [n, c, h, w] under an ONNX name. */
interface Images {
  readonly name: string;
  readonly n: number;
  readonly c: number;
  readonly h: number;
  readonly w: number;
}

/** A 2D filter [kh, kw, ci, co] under an ONNX name. */
interface Filter {
  readonly name: string;
  readonly kh: number;
  readonly kw: number;
  readonly ci: number;
  readonly co: number;
}

interface Window {
  readonly strides: readonly [number, number];
  readonly pads: readonly [Pads, Pads];
}

/** Frames of one clip mixed by a matrix: [B, T, ...] to [B, rows, ...] (`rest` values a frame). */
function mix(
  lowering: Lowering,
  name: string,
  batch: number,
  frames: number,
  rest: number,
  rows: number,
  matrix: Float32Array,
): string {
  const { g } = lowering;
  const flat = lowering.once(`frames ${name}`, () => lowering.reshape(name, [batch, frames, rest]));
  return g.op("MatMul", [g.constant("float32", [rows, frames], matrix), flat]);
}

function outputSide(side: number, kernel: number, stride: number, [before, after]: Pads): number {
  return Math.floor((side + before + after - kernel) / stride) + 1;
}

/** 2D convolution of images in "first". */
function conv2d(lowering: Lowering, x: Images, filter: Filter, { strides, pads }: Window): Images {
  const { g } = lowering;
  const h = outputSide(x.h, filter.kh, strides[0], pads[0]);
  const w = outputSide(x.w, filter.kw, strides[1], pads[1]);
  const { kh, kw, ci, co } = filter;
  const attributes = {
    kernel_shape: [kh, kw],
    strides,
    pads: [pads[0][0], pads[1][0], pads[0][1], pads[1][1]],
  };
  const block = lowering.options.blockSize;
  if (block > 1 && ci % block === 0 && co % block === 0 && kh * kw > 1) {
    const blocked = lowering.once(`blocked filter ${filter.name}`, () => {
      const split = lowering.reshape(filter.name, [kh, kw, ci / block, block, co / block, block]);
      return lowering.reshape(lowering.transpose(split, [4, 2, 0, 1, 3, 5]), [co, ci, kh, kw]);
    });
    const input = lowering.once(`blocked images ${x.name}`, () =>
      g.op("Nchwc:ReorderInput", [x.name]),
    );
    const output = g.op("Nchwc:Conv", [input, blocked], {
      ...attributes,
      dilations: [1, 1],
      group: 1,
    });
    return { name: g.op("Nchwc:ReorderOutput", [output], { channels: co }), n: x.n, c: co, h, w };
  }
  const plain = lowering.once(`filter ${filter.name}`, () =>
    lowering.transpose(filter.name, [3, 2, 0, 1]),
  );
  return { name: g.op("Conv", [x.name, plain], attributes), n: x.n, c: co, h, w };
}

/** The filter of the input gradient: taps reversed, channels swapped. */
function reversed(lowering: Lowering, { name, kh, kw, ci, co }: Filter): Filter {
  const flipped = lowering.once(`reversed filter ${name}`, () => {
    const back =
      kh * kw > 1
        ? lowering.slice(name, [0, 1], [-1, -1], [-(2 ** 31), -(2 ** 31)], [-1, -1])
        : name;
    return lowering.transpose(back, [0, 1, 3, 2]);
  });
  return { name: flipped, kh, kw, ci: co, co: ci };
}

/** Negative padding is cropping, which ONNX convolutions do not do. */
function crop(
  lowering: Lowering,
  x: Images,
  pads: readonly [Pads, Pads],
): { images: Images; pads: [Pads, Pads] } {
  const cut = pads.map(([a, b]) => [Math.max(0, -a), Math.max(0, -b)] as const);
  const left: [Pads, Pads] = [
    [Math.max(0, pads[0][0]), Math.max(0, pads[0][1])],
    [Math.max(0, pads[1][0]), Math.max(0, pads[1][1])],
  ];
  if (cut.flat().every((c) => c === 0)) {
    return { images: x, pads: left };
  }
  const [[top, bottom], [before, after]] = cut as [Pads, Pads];
  const h = x.h - top - bottom;
  const w = x.w - before - after;
  const name = lowering.slice(x.name, [2, 3], [top, before], [top + h, before + w]);
  return { images: { ...x, name, h, w }, pads: left };
}

/**
 * Gradient of a 2D convolution to its input of sides (h, w). With strides, the input's pixels fall
 * into stride × stride phases, each the convolution of dy with the taps that reach it; the phases are
 * interleaved. So no zero is ever multiplied.
 */
function conv2dInputGrad(
  lowering: Lowering,
  dy: Images,
  filter: Filter,
  window: Window,
  h: number,
  w: number,
): Images {
  const { g } = lowering;
  const { kh, kw, ci } = filter;
  const { strides, pads } = window;
  const [sh, sw] = strides;
  if (sh === 1 && sw === 1) {
    const wide: [Pads, Pads] = [
      [kh - 1 - pads[0][0], h - 1 + pads[0][0] - dy.h + 1],
      [kw - 1 - pads[1][0], w - 1 + pads[1][0] - dy.w + 1],
    ];
    const cropped = crop(lowering, dy, wide);
    return conv2d(lowering, cropped.images, reversed(lowering, filter), {
      strides,
      pads: cropped.pads,
    });
  }
  const ph = Math.ceil(h / sh);
  const pw = Math.ceil(w / sw);
  const phases: string[] = [];
  for (let a = 0; a < sh; a++) {
    for (let b = 0; b < sw; b++) {
      phases.push(phase(lowering, dy, filter, window, [a, b], [ph, pw]));
    }
  }
  const stacked = g.op(
    "Concat",
    phases.map((name) => lowering.reshape(name, [dy.n, ci, 1, ph, pw])),
    { axis: 2 },
  );
  const split = lowering.reshape(stacked, [dy.n, ci, sh, sw, ph, pw]);
  const woven = lowering.reshape(lowering.transpose(split, [0, 1, 4, 2, 5, 3]), [
    dy.n,
    ci,
    ph * sh,
    pw * sw,
  ]);
  const name =
    ph * sh === h && pw * sw === w ? woven : lowering.slice(woven, [2, 3], [0, 0], [h, w]);
  return { name, n: dy.n, c: ci, h, w };
}

/** The pixels (s·i + a, s·j + b) of an input gradient, [n, ci, ph, pw]. */
function phase(
  lowering: Lowering,
  dy: Images,
  filter: Filter,
  { strides, pads }: Window,
  at: readonly [number, number],
  sides: readonly [number, number],
): string {
  const { g } = lowering;
  const axes = [0, 1].map((i) => {
    const stride = strides[i]!;
    const kernel = i === 0 ? filter.kh : filter.kw;
    const first = (at[i]! + pads[i]![0]) % stride; // the smallest tap that reaches the phase
    const taps = first < kernel ? Math.ceil((kernel - first) / stride) : 0;
    const shift = (at[i]! + pads[i]![0] - first) / stride;
    const before = taps - 1 - shift;
    const side = i === 0 ? dy.h : dy.w;
    return { first, taps, stride, pad: [before, sides[i]! + taps - 1 - before - side] as const };
  });
  if (axes.some((axis) => axis.taps === 0)) {
    return g.op("Expand", [
      g.constant("float32", [1, 1, 1, 1], new Float32Array(1)),
      g.ints([dy.n, filter.ci, ...sides]),
    ]);
  }
  const taps = lowering.slice(
    filter.name,
    [0, 1],
    axes.map((axis) => axis.first),
    [filter.kh, filter.kw],
    axes.map((axis) => axis.stride),
  );
  const part = { ...filter, name: taps, kh: axes[0]!.taps, kw: axes[1]!.taps };
  const cropped = crop(lowering, dy, [axes[0]!.pad, axes[1]!.pad]);
  return conv2d(lowering, cropped.images, reversed(lowering, part), {
    strides: [1, 1],
    pads: cropped.pads,
  }).name;
}

/** Gradient of a 2D convolution to its filter: [kh, kw, ci, co], one product a tap. */
function conv2dFilterGrad(
  lowering: Lowering,
  x: Images,
  dy: Images,
  kh: number,
  kw: number,
  { strides, pads }: Window,
): string {
  const { g } = lowering;
  const rows = x.n * dy.h * dy.w;
  // Channels in front, so that a tap's images are one long row a channel.
  const target = lowering.once(`rows ${dy.name}`, () =>
    lowering.reshape(lowering.transpose(dy.name, [1, 0, 2, 3]), [dy.c, rows]),
  );
  const source = lowering.once(`rows ${x.name} ${pads.flat().join()}`, () => {
    const channels = lowering.transpose(x.name, [1, 0, 2, 3]); // [ci, n, h, w]
    const around = [0, 0, pads[0][0], pads[1][0], 0, 0, pads[0][1], pads[1][1]];
    return around.some((p) => p > 0) ? g.op("Pad", [channels, g.ints(around)]) : channels;
  });
  const spanH = (dy.h - 1) * strides[0] + 1;
  const spanW = (dy.w - 1) * strides[1] + 1;
  const cut = (
    name: string,
    axis: number,
    start: number,
    span: number,
    stride: number,
    whole: number,
  ) =>
    start === 0 && span === whole && stride === 1
      ? name
      : lowering.slice(name, [axis], [start], [start + span], stride === 1 ? undefined : [stride]);
  const wholeH = x.h + pads[0][0] + pads[0][1];
  const wholeW = x.w + pads[1][0] + pads[1][1];
  const taps = new Array<string>(kh * kw);
  for (let j = 0; j < kw; j++) {
    const columns = cut(source, 3, j, spanW, strides[1], wholeW);
    for (let i = 0; i < kh; i++) {
      taps[i * kw + j] = lowering.reshape(cut(columns, 2, i, spanH, strides[0], wholeH), [
        x.c,
        rows,
      ]);
    }
  }
  const times = (name: string) => g.op("Microsoft:FusedMatMul", [name, target], { transB: 1 });
  // Few channels make thin products: then all taps are stacked into one.
  const product =
    taps.length === 1
      ? times(taps[0]!)
      : x.c < 16
        ? times(g.op("Concat", taps, { axis: 0 }))
        : g.op("Concat", taps.map(times), { axis: 0 });
  return lowering.reshape(product, [kh, kw, x.c, dy.c]);
}

/** The geometry of one 3D convolution. */
interface Geometry {
  readonly key: string;
  readonly batch: number;
  readonly input: Shape;
  readonly output: Shape;
  readonly filter: Shape;
  readonly window: Window;
  /** Taps over time that see any frame, a contiguous range. */
  readonly taps: readonly [first: number, end: number];
  /** The fast algorithm over time, where it is used. */
  readonly plan: TemporalPlan | undefined;
  /** [outputs·taps × frames]: the frame under each tap, when the exact way must gather. */
  readonly gather: Float32Array | undefined;
}

function geometry(lowering: Lowering, input: Shape, filter: Shape, attrs: ConvAttrs): Geometry {
  const { strides, pads } = attrs;
  const [, frames] = input as [number, number];
  const kt = filter[0]!;
  const sides = convSides(input.slice(1, 4), filter, attrs);
  const outputs = sides[0]!;
  const sees = (tap: number) =>
    Array.from({ length: outputs }, (_, t) => t * strides[0] + tap - pads[0]![0]).some(
      (f) => f >= 0 && f < frames,
    );
  const useful = Array.from({ length: kt }, (_, tap) => tap).filter(sees);
  const taps = [useful[0] ?? 0, (useful.at(-1) ?? 0) + 1] as const;
  const span = taps[1] - taps[0];
  const fast =
    lowering.differentiated && strides[0] === 1 && kt === 3 && span === 3 && outputs >= 3;
  const plain = span === 1 && strides[0] === 1 && outputs === frames && taps[0] === pads[0]![0];
  const gather = new Float32Array(outputs * span * frames);
  for (let t = 0; t < outputs; t++) {
    for (let tap = taps[0]; tap < taps[1]; tap++) {
      const frame = t * strides[0] + tap - pads[0]![0];
      if (frame >= 0 && frame < frames) {
        gather[(t * span + tap - taps[0]) * frames + frame] = 1;
      }
    }
  }
  return {
    key: `${input.slice(1).join("x")} ${filter.join("x")} ${strides.join()} ${pads.flat().join()}`,
    batch: input[0]!,
    input,
    output: [input[0]!, ...sides, filter[4]!],
    filter,
    window: {
      strides: [strides[1], strides[2]],
      pads: [pads[1] as Pads, pads[2] as Pads],
    },
    taps,
    plan: fast ? temporalPlan(frames, outputs, kt, pads[0]![0]) : undefined,
    gather: plain ? undefined : gather,
  };
}

const product3 = (shape: Shape, from: number) => shape.slice(from).reduce((a, b) => a * b, 1);

/** Product inputs of the fast algorithm: images of `tiles` frames a clip, for each product. */
function fastInputs(lowering: Lowering, x: Value, geo: Geometry, plan: TemporalPlan): Images[] {
  const [b, t, h, w, c] = geo.input as [number, number, number, number, number];
  return lowering.once(`fast inputs ${x.id} ${geo.key}`, () => {
    const name = lowering.full(x, "first");
    return plan.input.map((matrix) => ({
      name: lowering.reshape(mix(lowering, name, b, t, c * h * w, plan.tiles, matrix), [
        b * plan.tiles,
        c,
        h,
        w,
      ]),
      n: b * plan.tiles,
      c,
      h,
      w,
    }));
  });
}

/** The same for the gradient of the output. */
function fastGrads(lowering: Lowering, dy: Value, geo: Geometry, plan: TemporalPlan): Images[] {
  const [b, t, h, w, c] = geo.output as [number, number, number, number, number];
  return lowering.once(`fast grads ${dy.id} ${geo.key}`, () => {
    const name = lowering.full(dy, "first");
    return plan.outputTransposed.map((matrix) => ({
      name: lowering.reshape(mix(lowering, name, b, t, c * h * w, plan.tiles, matrix), [
        b * plan.tiles,
        c,
        h,
        w,
      ]),
      n: b * plan.tiles,
      c,
      h,
      w,
    }));
  });
}

/** Product filters G w. */
function fastFilters(
  lowering: Lowering,
  filter: Value,
  geo: Geometry,
  plan: TemporalPlan,
): Filter[] {
  const [kt, kh, kw, ci, co] = geo.filter as [number, number, number, number, number];
  const { g } = lowering;
  return lowering.once(`fast filters ${filter.id} ${plan.products}`, () => {
    const flat = lowering.reshape(lowering.full(filter), [kt, kh * kw * ci * co]);
    const all = g.op("MatMul", [g.constant("float32", [plan.products, kt], plan.filter), flat]);
    const parts = g.ops("Split", [all], { axis: 0, num_outputs: plan.products }, plan.products);
    return parts.map((part) => ({
      name: lowering.reshape(part, [kh, kw, ci, co]),
      kh,
      kw,
      ci,
      co,
    }));
  });
}

/** Exact way: the frames under the taps as channels, [b·outputs, taps·c, h, w]. */
function stackedFrames(lowering: Lowering, x: Value, geo: Geometry): Images {
  const [b, t, h, w, c] = geo.input as [number, number, number, number, number];
  const outputs = geo.output[1]!;
  const span = geo.taps[1] - geo.taps[0];
  return lowering.once(`stacked ${x.id} ${geo.key}`, () => {
    const name = lowering.full(x, "first");
    const frames = geo.gather
      ? mix(lowering, name, b, t, c * h * w, outputs * span, geo.gather)
      : name;
    return {
      name: lowering.reshape(frames, [b * outputs, span * c, h, w]),
      n: b * outputs,
      c: span * c,
      h,
      w,
    };
  });
}

/** Exact way: the filter of the useful taps as [kh, kw, taps·ci, co]. */
function stackedFilter(lowering: Lowering, filter: Value, geo: Geometry): Filter {
  const [kt, kh, kw, ci, co] = geo.filter as [number, number, number, number, number];
  const [first, end] = geo.taps;
  const span = end - first;
  const name = lowering.once(`stacked filter ${filter.id} ${first} ${end}`, () => {
    const whole = lowering.full(filter);
    const useful = span === kt ? whole : lowering.slice(whole, [0], [first], [end]);
    return lowering.reshape(span === 1 ? useful : lowering.transpose(useful, [1, 2, 0, 3, 4]), [
      kh,
      kw,
      span * ci,
      co,
    ]);
  });
  return { name, kh, kw, ci: span * ci, co };
}

function grads(lowering: Lowering, dy: Value, geo: Geometry): Images {
  const [b, t, h, w, c] = geo.output as [number, number, number, number, number];
  return {
    name: lowering.once(`images ${dy.id}`, () =>
      lowering.reshape(lowering.full(dy, "first"), [b * t, c, h, w]),
    ),
    n: b * t,
    c,
    h,
    w,
  };
}

function store(lowering: Lowering, value: Value, name: string): void {
  const [b, t, h, w, c] = value.shape as [number, number, number, number, number];
  lowering.set(value, lowering.reshape(name, [b, t, c, h, w]), "first");
}

const attrsOf = (node: GraphNode) => node.attrs as unknown as ConvAttrs;

/** A 1×1×1 convolution is a product over channels; in "last" it is one plain MatMul. */
function isPointwise(filter: Shape, { strides, pads }: ConvAttrs): boolean {
  return (
    filter[0] === 1 &&
    filter[1] === 1 &&
    filter[2] === 1 &&
    strides.every((s) => s === 1) &&
    pads.flat().every((p) => p === 0)
  );
}

const conv: Rule = (lowering, node) => {
  const [x, filter] = node.inputs as [Value, Value];
  const [y] = node.outputs as [Value];
  const { g } = lowering;
  if (isPointwise(filter.shape, attrsOf(node)) && !lowering.isFirst(x)) {
    const [ci, co] = filter.shape.slice(3) as [number, number];
    lowering.set(
      y,
      g.op("MatMul", [lowering.full(x), lowering.reshape(lowering.full(filter), [ci, co])]),
    );
    return;
  }
  const geo = geometry(lowering, x.shape, filter.shape, attrsOf(node));
  const { plan } = geo;
  if (!plan) {
    store(
      lowering,
      y,
      conv2d(
        lowering,
        stackedFrames(lowering, x, geo),
        stackedFilter(lowering, filter, geo),
        geo.window,
      ).name,
    );
    return;
  }
  const filters = fastFilters(lowering, filter, geo, plan);
  const rest = product3(geo.output, 2);
  const parts = fastInputs(lowering, x, geo, plan).map((images, f) =>
    lowering.reshape(conv2d(lowering, images, filters[f]!, geo.window).name, [
      geo.batch,
      plan.tiles,
      rest,
    ]),
  );
  const joined = g.op("Concat", parts, { axis: 1 });
  const rows = plan.products * plan.tiles;
  store(
    lowering,
    y,
    g.op("MatMul", [g.constant("float32", [geo.output[1]!, rows], plan.output), joined]),
  );
};

const convInputGrad: Rule = (lowering, node) => {
  const [dy, filter] = node.inputs as [Value, Value];
  const [dx] = node.outputs as [Value];
  const { g } = lowering;
  if (isPointwise(filter.shape, attrsOf(node)) && !lowering.isFirst(dy)) {
    const weights = lowering.reshape(lowering.full(filter), filter.shape.slice(3));
    lowering.set(dx, g.op("Microsoft:FusedMatMul", [lowering.full(dy), weights], { transB: 1 }));
    return;
  }
  const geo = geometry(lowering, dx.shape, filter.shape, attrsOf(node));
  const [b, t, h, w, c] = dx.shape as [number, number, number, number, number];
  const { plan } = geo;
  if (plan) {
    const filters = fastFilters(lowering, filter, geo, plan);
    const parts = fastGrads(lowering, dy, geo, plan).map((images, f) =>
      lowering.reshape(conv2dInputGrad(lowering, images, filters[f]!, geo.window, h, w).name, [
        b,
        plan.tiles,
        c * h * w,
      ]),
    );
    const rows = plan.products * plan.tiles;
    const back = new Float32Array(t * rows);
    plan.input.forEach((matrix, f) => {
      for (let tile = 0; tile < plan.tiles; tile++) {
        for (let frame = 0; frame < t; frame++) {
          back[frame * rows + f * plan.tiles + tile] = matrix[tile * t + frame]!;
        }
      }
    });
    store(
      lowering,
      dx,
      g.op("MatMul", [g.constant("float32", [t, rows], back), g.op("Concat", parts, { axis: 1 })]),
    );
    return;
  }
  const stacked = conv2dInputGrad(
    lowering,
    grads(lowering, dy, geo),
    stackedFilter(lowering, filter, geo),
    geo.window,
    h,
    w,
  );
  if (!geo.gather) {
    store(lowering, dx, stacked.name);
    return;
  }
  const rows = geo.output[1]! * (geo.taps[1] - geo.taps[0]);
  const scatter = new Float32Array(t * rows);
  for (let row = 0; row < rows; row++) {
    for (let frame = 0; frame < t; frame++) {
      scatter[frame * rows + row] = geo.gather[row * t + frame]!;
    }
  }
  const flat = lowering.reshape(stacked.name, [b, rows, c * h * w]);
  store(lowering, dx, g.op("MatMul", [g.constant("float32", [t, rows], scatter), flat]));
};

const convFilterGrad: Rule = (lowering, node) => {
  const [x, dy] = node.inputs as [Value, Value];
  const [dw] = node.outputs as [Value];
  const { g } = lowering;
  const [kt, kh, kw, ci, co] = dw.shape as [number, number, number, number, number];
  if (isPointwise(dw.shape, attrsOf(node)) && !(lowering.isFirst(x) && lowering.isFirst(dy))) {
    const [rows] = [product3(x.shape, 0) / ci];
    const a = lowering.reshape(lowering.full(x), [rows, ci]);
    const b = lowering.reshape(lowering.full(dy), [rows, co]);
    lowering.set(
      dw,
      lowering.reshape(g.op("Microsoft:FusedMatMul", [a, b], { transA: 1 }), dw.shape),
    );
    return;
  }
  const geo = geometry(lowering, x.shape, dw.shape, attrsOf(node));
  const { plan } = geo;
  if (plan) {
    const targets = fastGrads(lowering, dy, geo, plan);
    const parts = fastInputs(lowering, x, geo, plan).map((images, f) =>
      lowering.reshape(conv2dFilterGrad(lowering, images, targets[f]!, kh, kw, geo.window), [
        1,
        kh * kw * ci * co,
      ]),
    );
    const products = g.op("Concat", parts, { axis: 0 });
    const matrix = g.constant("float32", [plan.products, kt], plan.filter);
    const name = g.op("Microsoft:FusedMatMul", [matrix, products], { transA: 1 });
    lowering.set(dw, lowering.reshape(name, dw.shape));
    return;
  }
  const [first, end] = geo.taps;
  const span = end - first;
  const stacked = conv2dFilterGrad(
    lowering,
    stackedFrames(lowering, x, geo),
    grads(lowering, dy, geo),
    kh,
    kw,
    geo.window,
  );
  const split = lowering.transpose(
    lowering.reshape(stacked, [kh, kw, span, ci, co]),
    [2, 0, 1, 3, 4],
  );
  const padded =
    span === kt ? split : g.op("Pad", [split, g.ints([first, 0, 0, 0, 0, kt - end, 0, 0, 0, 0])]);
  lowering.set(dw, padded);
};

export const convolutionRules: { readonly [op: string]: Rule } = {
  Conv: conv,
  ConvInputGrad: convInputGrad,
  ConvFilterGrad: convFilterGrad,
};
