/**
 * @file ONNX lowering of 3D convolutions and their gradients.
 *
 * A 3D convolution is a grouped 2D convolution of frames between two mixings over time, each a
 * product with a small constant matrix:
 *
 *   y = mixOut · conv2d(mixIn · x, filter2d)
 *
 * The mixings also do the zero padding, the strides and the gathering of frames, so no clip is ever
 * padded or sliced along time. There are two ways to fill them in:
 *  - exact: one group, the frames under the taps stacked as channels;
 *  - fast: Cook-Toom over time (bilinear.ts), one group a product, in steps that are differentiated.
 * Both gradients follow by transposing the same matrices. The 2D convolutions run in ONNX Runtime's
 * blocked format where the channels fit, which is its fastest; filter gradients are products of
 * shifted images, which beat every convolution form.
 */

import type { GraphNode, Shape, Value } from "../graph.ts";
import { type ConvAttrs, convSides } from "../kernels.ts";
import { sizeOf } from "../tensors.ts";
import { temporalPlan } from "./bilinear.ts";
import type { Lowering, Rule } from "./lowering.ts";

type Pads = readonly [number, number];

/** A batch of images [n, groups·c, h, w] under an ONNX name; c channels a group. */
interface Images {
  readonly name: string;
  readonly n: number;
  readonly c: number;
  readonly h: number;
  readonly w: number;
}

/** 2D filters [groups, kh, kw, ci, co] under an ONNX name. */
interface Filters {
  readonly name: string;
  readonly groups: number;
  readonly kh: number;
  readonly kw: number;
  readonly ci: number;
  readonly co: number;
}

interface Window {
  readonly strides: readonly [number, number];
  readonly pads: readonly [Pads, Pads];
}

function outputSide(side: number, kernel: number, stride: number, [before, after]: Pads): number {
  return Math.floor((side + before + after - kernel) / stride) + 1;
}

/** Grouped 2D convolution. */
function conv2d(
  lowering: Lowering,
  x: Images,
  filters: Filters,
  { strides, pads }: Window,
): Images {
  const { g } = lowering;
  const { groups, kh, kw, ci, co } = filters;
  const h = outputSide(x.h, kh, strides[0], pads[0]);
  const w = outputSide(x.w, kw, strides[1], pads[1]);
  const attributes = {
    kernel_shape: [kh, kw],
    strides,
    pads: [pads[0][0], pads[1][0], pads[0][1], pads[1][1]],
    dilations: [1, 1],
    group: groups,
  };
  const block = lowering.options.blockSize;
  if (block > 1 && ci % block === 0 && co % block === 0 && kh * kw > 1) {
    const blocked = lowering.once(`blocked filter ${filters.name}`, () => {
      const split = lowering.reshape(filters.name, [
        groups,
        kh,
        kw,
        ci / block,
        block,
        co / block,
        block,
      ]);
      return lowering.reshape(lowering.transpose(split, [0, 5, 3, 1, 2, 4, 6]), [
        groups * co,
        ci,
        kh,
        kw,
      ]);
    });
    const input = lowering.once(`blocked images ${x.name}`, () =>
      g.op("Nchwc:ReorderInput", [x.name]),
    );
    const output = g.op("Nchwc:Conv", [input, blocked], attributes);
    const name = g.op("Nchwc:ReorderOutput", [output], { channels: groups * co });
    return { name, n: x.n, c: co, h, w };
  }
  const plain = lowering.once(`filter ${filters.name}`, () =>
    lowering.reshape(lowering.transpose(filters.name, [0, 4, 3, 1, 2]), [groups * co, ci, kh, kw]),
  );
  return { name: g.op("Conv", [x.name, plain], attributes), n: x.n, c: co, h, w };
}

/** The filters of the input gradient: taps reversed, channels swapped. */
function reversed(lowering: Lowering, filters: Filters): Filters {
  const { name, kh, kw, ci, co } = filters;
  const flipped = lowering.once(`reversed filter ${name}`, () => {
    const far = -(2 ** 31);
    const back = kh * kw > 1 ? lowering.slice(name, [1, 2], [-1, -1], [far, far], [-1, -1]) : name;
    return lowering.transpose(back, [0, 1, 2, 4, 3]);
  });
  return { ...filters, name: flipped, ci: co, co: ci };
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
  filters: Filters,
  window: Window,
  h: number,
  w: number,
): Images {
  const { g } = lowering;
  const { groups, kh, kw, ci } = filters;
  const { strides, pads } = window;
  const [sh, sw] = strides;
  if (sh === 1 && sw === 1) {
    const wide: [Pads, Pads] = [
      [kh - 1 - pads[0][0], h + pads[0][0] - dy.h],
      [kw - 1 - pads[1][0], w + pads[1][0] - dy.w],
    ];
    const cropped = crop(lowering, dy, wide);
    return conv2d(lowering, cropped.images, reversed(lowering, filters), {
      strides,
      pads: cropped.pads,
    });
  }
  const ph = Math.ceil(h / sh);
  const pw = Math.ceil(w / sw);
  const channels = groups * ci;
  const phases: string[] = [];
  for (let a = 0; a < sh; a++) {
    for (let b = 0; b < sw; b++) {
      phases.push(phase(lowering, dy, filters, window, [a, b], [ph, pw]));
    }
  }
  const stacked = g.op(
    "Concat",
    phases.map((name) => lowering.reshape(name, [dy.n, channels, 1, ph, pw])),
    { axis: 2 },
  );
  const split = lowering.reshape(stacked, [dy.n, channels, sh, sw, ph, pw]);
  const rows = lowering.transpose(split, [0, 1, 4, 2, 3, 5]); // [n, c, ph, sh, sw, pw]
  const woven = lowering.reshape(interleave(lowering, rows, sw, pw), [
    dy.n,
    channels,
    ph * sh,
    pw * sw,
  ]);
  const name =
    ph * sh === h && pw * sw === w ? woven : lowering.slice(woven, [2, 3], [0, 0], [h, w]);
  return { name, n: dy.n, c: ci, h, w };
}

/**
 * [..., s, w] to [..., w·s], the s rows woven into one. As a product with a 0/1 matrix it is exact and
 * far faster than moving single values.
 */
export function interleave(
  lowering: Lowering,
  name: string,
  s: number,
  w: number,
  back = false,
): string {
  const side = s * w;
  const matrix = new Float32Array(side * side);
  for (let j = 0; j < s; j++) {
    for (let i = 0; i < w; i++) {
      const stacked = j * w + i;
      const woven = i * s + j;
      matrix[back ? woven * side + stacked : stacked * side + woven] = 1;
    }
  }
  const flat = lowering.reshape(name, [-1, side]);
  return s === 1
    ? flat
    : lowering.g.op("MatMul", [flat, lowering.g.constant("float32", [side, side], matrix)]);
}

/** The pixels (s·i + a, s·j + b) of an input gradient, [n, groups·ci, ph, pw]. */
function phase(
  lowering: Lowering,
  dy: Images,
  filters: Filters,
  { strides, pads }: Window,
  at: readonly [number, number],
  sides: readonly [number, number],
): string {
  const { g } = lowering;
  const axes = [0, 1].map((i) => {
    const stride = strides[i]!;
    const kernel = i === 0 ? filters.kh : filters.kw;
    const first = (at[i]! + pads[i]![0]) % stride; // the smallest tap that reaches the phase
    const taps = first < kernel ? Math.ceil((kernel - first) / stride) : 0;
    const shift = (at[i]! + pads[i]![0] - first) / stride;
    const before = taps - 1 - shift;
    const side = i === 0 ? dy.h : dy.w;
    return { first, taps, stride, pad: [before, sides[i]! + taps - 1 - before - side] as const };
  });
  if (axes.some((axis) => axis.taps === 0)) {
    const zero = g.constant("float32", [1, 1, 1, 1], new Float32Array(1));
    return g.op("Expand", [zero, g.ints([dy.n, filters.groups * filters.ci, ...sides])]);
  }
  const taps = lowering.slice(
    filters.name,
    [1, 2],
    axes.map((axis) => axis.first),
    [filters.kh, filters.kw],
    axes.map((axis) => axis.stride),
  );
  const part = { ...filters, name: taps, kh: axes[0]!.taps, kw: axes[1]!.taps };
  const cropped = crop(lowering, dy, [axes[0]!.pad, axes[1]!.pad]);
  return conv2d(lowering, cropped.images, reversed(lowering, part), {
    strides: [1, 1],
    pads: cropped.pads,
  }).name;
}

/** Gradient of a grouped 2D convolution to its filters: [groups, kh·kw, ci, co], one product a tap. */
function conv2dFilterGrad(
  lowering: Lowering,
  x: Images,
  dy: Images,
  groups: number,
  kh: number,
  kw: number,
  { strides, pads }: Window,
): string {
  const { g } = lowering;
  const rows = x.n * dy.h * dy.w;
  // Channels in front, so that a tap's images are one long row a channel.
  const inFront = (images: Images) =>
    lowering.once(`channels in front ${images.name}`, () =>
      lowering.transpose(
        lowering.reshape(images.name, [images.n, groups, images.c, images.h, images.w]),
        [1, 2, 0, 3, 4],
      ),
    );
  const target = lowering.once(`rows ${dy.name}`, () =>
    lowering.reshape(inFront(dy), [groups, dy.c, rows]),
  );
  if (
    strides[0] === 1 &&
    strides[1] === 1 &&
    dy.h === x.h &&
    dy.w === x.w &&
    kh * kw > 1 &&
    x.c >= 16
  ) {
    return shiftedProducts(lowering, inFront(x), target, { x, dy, groups, kh, kw, pads });
  }
  const around = [0, 0, 0, pads[0][0], pads[1][0], 0, 0, 0, pads[0][1], pads[1][1]];
  const channels = inFront(x); // [groups, ci, n, h, w]
  const source = around.some((p) => p > 0) ? g.op("Pad", [channels, g.ints(around)]) : channels;
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
  const taps = Array.from<string>({ length: kh * kw });
  for (let j = 0; j < kw; j++) {
    const columns = cut(source, 4, j, spanW, strides[1], wholeW);
    for (let i = 0; i < kh; i++) {
      const images = cut(columns, 3, i, spanH, strides[0], wholeH);
      taps[i * kw + j] = lowering.reshape(images, [groups, x.c, rows]);
    }
  }
  const times = (name: string, count: number) =>
    lowering.reshape(g.op("Microsoft:FusedMatMul", [name, target], { transB: 1 }), [
      groups,
      count,
      x.c,
      dy.c,
    ]);
  if (taps.length === 1) {
    return times(taps[0]!, 1);
  }
  // Few channels make thin products: then all taps are stacked into one.
  return x.c < 16
    ? times(g.op("Concat", taps, { axis: 1 }), taps.length)
    : g.op(
        "Concat",
        taps.map((tap) => times(tap, 1)),
        { axis: 1 },
      );
}

/**
 * The filter gradient where the sides do not change: columns are shifted in x and rows, the other way,
 * in dy, so that kw + kh shifted copies make all kh·kw taps.
 */
function shiftedProducts(
  lowering: Lowering,
  source: string,
  target: string,
  at: {
    x: Images;
    dy: Images;
    groups: number;
    kh: number;
    kw: number;
    pads: readonly [Pads, Pads];
  },
): string {
  const { g } = lowering;
  const { x, dy, groups, kh, kw, pads } = at;
  const { n, h, w } = x;
  const rows = n * h * w;
  /** Images moved by `offset` along an axis, zeros moving in. */
  const shift = (name: string, c: number, axis: 3 | 4, offset: number) => {
    if (offset === 0) {
      return lowering.reshape(name, [groups, c, rows]);
    }
    const around = Array.from({ length: 10 }, () => 0);
    around[axis] = offset;
    around[axis + 5] = -offset;
    const images = lowering.reshape(name, [groups, c, n, h, w]);
    return lowering.reshape(g.op("Pad", [images, g.ints(around)]), [groups, c, rows]);
  };
  const range = (length: number) => Array.from({ length }, (_, i) => i);
  const columns = lowering.once(`columns ${x.name} ${kw} ${pads[1].join()}`, () =>
    range(kw).map((j) => shift(source, x.c, 4, pads[1][0] - j)),
  );
  const lines = lowering.once(`lines ${dy.name} ${kh} ${pads[0].join()}`, () =>
    range(kh).map((i) => shift(target, dy.c, 3, i - pads[0][0])),
  );
  const taps = lines.flatMap((line) =>
    columns.map((column) =>
      lowering.reshape(g.op("Microsoft:FusedMatMul", [column, line], { transB: 1 }), [
        groups,
        1,
        x.c,
        dy.c,
      ]),
    ),
  );
  return g.op("Concat", taps, { axis: 1 });
}

/** One 3D convolution as a grouped 2D one; see the file comment. */
interface Form {
  readonly key: string;
  readonly batch: number;
  readonly input: Shape;
  readonly output: Shape;
  readonly filter: Shape;
  readonly window: Window;
  readonly groups: number;
  /** Images a clip in the 2D convolution. */
  readonly tiles: number;
  /** Frames stacked as channels of a group. */
  readonly span: number;
  /** [tiles·groups·span × frames] row-major; undefined when it is the identity. */
  readonly mixIn: Float32Array | undefined;
  /** [outputs × tiles·groups] row-major; undefined when it is the identity. */
  readonly mixOut: Float32Array | undefined;
  /** Fast: [groups × taps] row-major. */
  readonly filterMatrix: Float32Array | undefined;
  /** Exact: the taps over time that see any frame. */
  readonly taps: readonly [first: number, end: number];
}

function formOf(lowering: Lowering, input: Shape, filter: Shape, attrs: ConvAttrs): Form {
  const { strides, pads } = attrs;
  const [batch, frames] = input as [number, number];
  const kt = filter[0]!;
  const sides = convSides(input.slice(1, 4), filter, attrs);
  const outputs = sides[0]!;
  const before = pads[0]![0];
  const frameAt = (t: number, tap: number) => t * strides[0] + tap - before;
  const seen = Array.from({ length: kt }, (_, tap) => tap).filter((tap) =>
    Array.from({ length: outputs }, (_, t) => frameAt(t, tap)).some((f) => f >= 0 && f < frames),
  );
  const first = seen[0] ?? 0;
  const end = (seen.at(-1) ?? 0) + 1;
  const span = end - first;
  const common = {
    key: `${input.slice(1).join("x")} ${filter.join("x")} ${strides.join()} ${pads.flat().join()}`,
    batch,
    input,
    output: [batch, ...sides, filter[4]!],
    filter,
    window: {
      strides: [strides[1], strides[2]],
      pads: [pads[1] as Pads, pads[2] as Pads],
    } as const,
    taps: [first, end] as const,
  };
  // Transforming the filter costs as much as convolving a thousand positions or so.
  const positions = sizeOf([batch, ...sides]);
  const worth = strides[0] === 1 && kt === 3 && span === 3 && outputs >= 3 && positions >= 2048;
  if (lowering.differentiated && worth) {
    const {
      tiles,
      products,
      input: mixIn,
      output: mixOut,
      filter: filterMatrix,
    } = temporalPlan(frames, outputs, kt, before);
    return { ...common, groups: products, tiles, span: 1, mixIn, mixOut, filterMatrix };
  }
  const mixIn = new Float32Array(outputs * span * frames);
  for (let t = 0; t < outputs; t++) {
    for (let tap = first; tap < end; tap++) {
      const frame = frameAt(t, tap);
      if (frame >= 0 && frame < frames) {
        mixIn[(t * span + tap - first) * frames + frame] = 1;
      }
    }
  }
  const identity = span === 1 && strides[0] === 1 && outputs === frames && first === before;
  return {
    ...common,
    groups: 1,
    tiles: outputs,
    span,
    mixIn: identity ? undefined : mixIn,
    mixOut: undefined,
    filterMatrix: undefined,
  };
}

function transposed(matrix: Float32Array, rows: number): Float32Array {
  const columns = matrix.length / rows;
  return Float32Array.from(matrix, (_, i) => matrix[(i % rows) * columns + Math.floor(i / rows)]!);
}

/** [B, frames, rest] to [B, rows, rest] by a matrix [rows × frames]. */
function mix(
  lowering: Lowering,
  name: string,
  batch: number,
  matrix: Float32Array,
  rows: number,
  rest: number,
): string {
  const frames = matrix.length / rows;
  const flat = lowering.reshape(name, [batch, frames, rest]);
  return lowering.g.op("MatMul", [lowering.g.constant("float32", [rows, frames], matrix), flat]);
}

/** The input as the 2D convolution sees it: [B·tiles, groups·span·C, H, W]. */
function inputImages(lowering: Lowering, x: Value, form: Form): Images {
  const [b, , h, w, c] = form.input as [number, number, number, number, number];
  const { tiles, groups, span, mixIn } = form;
  const rows = tiles * groups * span;
  const name = lowering.once(`conv input ${x.id} ${form.key}`, () => {
    const clip = lowering.full(x, "first");
    const mixed = mixIn ? mix(lowering, clip, b, mixIn, rows, c * h * w) : clip;
    return lowering.reshape(mixed, [b * tiles, groups * span * c, h, w]);
  });
  return { name, n: b * tiles, c: span * c, h, w };
}

/** The gradient of the output as the 2D convolution sees it: [B·tiles, groups·C, H, W]. */
function outputGradImages(lowering: Lowering, dy: Value, form: Form): Images {
  const [b, t, h, w, c] = form.output as [number, number, number, number, number];
  const { tiles, groups, mixOut } = form;
  const name = lowering.once(`conv grad ${dy.id} ${form.key}`, () => {
    const clip = lowering.full(dy, "first");
    const mixed = mixOut
      ? mix(lowering, clip, b, transposed(mixOut, t), tiles * groups, c * h * w)
      : clip;
    return lowering.reshape(mixed, [b * tiles, groups * c, h, w]);
  });
  return { name, n: b * tiles, c, h, w };
}

/** The filter as the 2D convolution sees it: [groups, kh, kw, span·ci, co]. */
function filters2d(lowering: Lowering, filter: Value, form: Form): Filters {
  const [kt, kh, kw, ci, co] = form.filter as [number, number, number, number, number];
  const { groups, span, filterMatrix } = form;
  const [first, end] = form.taps;
  const name = lowering.once(`filter2d ${filter.id} ${groups} ${first} ${end}`, () => {
    const whole = lowering.full(filter);
    if (filterMatrix) {
      const flat = lowering.reshape(whole, [kt, kh * kw * ci * co]);
      const mixed = lowering.g.op("MatMul", [
        lowering.g.constant("float32", [groups, kt], filterMatrix),
        flat,
      ]);
      return lowering.reshape(mixed, [groups, kh, kw, ci, co]);
    }
    const useful = span === kt ? whole : lowering.slice(whole, [0], [first], [end]);
    const stacked = span === 1 ? useful : lowering.transpose(useful, [1, 2, 0, 3, 4]);
    return lowering.reshape(stacked, [1, kh, kw, span * ci, co]);
  });
  return { name, groups, kh, kw, ci: span * ci, co };
}

/** Set a clip from images or rows of frames under an ONNX name. */
function store(lowering: Lowering, value: Value, name: string): void {
  const [b, t, h, w, c] = value.shape as [number, number, number, number, number];
  lowering.set(value, lowering.reshape(name, [b, t, c, h, w]), "first");
}

const attrsOf = (node: GraphNode) => node.attrs as unknown as ConvAttrs;

/** A 1×1×1 convolution is a product over channels; in "last" it is one plain MatMul. */
function isPointwise(filter: Shape, { strides, pads }: ConvAttrs): boolean {
  return (
    sizeOf(filter.slice(0, 3)) === 1 &&
    strides.every((s) => s === 1) &&
    pads.flat().every((p) => p === 0)
  );
}

const conv: Rule = (lowering, node) => {
  const [x, filter] = node.inputs as [Value, Value];
  const [y] = node.outputs as [Value];
  if (isPointwise(filter.shape, attrsOf(node)) && !lowering.isFirst(x)) {
    const weights = lowering.reshape(lowering.full(filter), filter.shape.slice(3));
    lowering.set(y, lowering.g.op("MatMul", [lowering.full(x), weights]));
    return;
  }
  const form = formOf(lowering, x.shape, filter.shape, attrsOf(node));
  const images = conv2d(
    lowering,
    inputImages(lowering, x, form),
    filters2d(lowering, filter, form),
    form.window,
  );
  const { mixOut, batch, output } = form;
  store(
    lowering,
    y,
    mixOut
      ? mix(lowering, images.name, batch, mixOut, output[1]!, sizeOf(output.slice(2)))
      : images.name,
  );
};

const convInputGrad: Rule = (lowering, node) => {
  const [dy, filter] = node.inputs as [Value, Value];
  const [dx] = node.outputs as [Value];
  if (isPointwise(filter.shape, attrsOf(node)) && !lowering.isFirst(dy)) {
    const weights = lowering.reshape(lowering.full(filter), filter.shape.slice(3));
    lowering.set(
      dx,
      lowering.g.op("Microsoft:FusedMatMul", [lowering.full(dy), weights], { transB: 1 }),
    );
    return;
  }
  const form = formOf(lowering, dx.shape, filter.shape, attrsOf(node));
  const [b, t, h, w, c] = dx.shape as [number, number, number, number, number];
  const grads = outputGradImages(lowering, dy, form);
  const images = conv2dInputGrad(
    lowering,
    grads,
    filters2d(lowering, filter, form),
    form.window,
    h,
    w,
  );
  const { mixIn, tiles, groups, span } = form;
  const back = mixIn && transposed(mixIn, tiles * groups * span);
  store(lowering, dx, back ? mix(lowering, images.name, b, back, t, c * h * w) : images.name);
};

const convFilterGrad: Rule = (lowering, node) => {
  const [x, dy] = node.inputs as [Value, Value];
  const [dw] = node.outputs as [Value];
  const { g } = lowering;
  const [kt, kh, kw, ci, co] = dw.shape as [number, number, number, number, number];
  if (isPointwise(dw.shape, attrsOf(node)) && !(lowering.isFirst(x) && lowering.isFirst(dy))) {
    const rows = sizeOf(x.shape) / ci;
    const a = lowering.reshape(lowering.full(x), [rows, ci]);
    const b = lowering.reshape(lowering.full(dy), [rows, co]);
    lowering.set(
      dw,
      lowering.reshape(g.op("Microsoft:FusedMatMul", [a, b], { transA: 1 }), dw.shape),
    );
    return;
  }
  const form = formOf(lowering, x.shape, dw.shape, attrsOf(node));
  const { groups, span, filterMatrix } = form;
  const products = conv2dFilterGrad(
    lowering,
    inputImages(lowering, x, form),
    outputGradImages(lowering, dy, form),
    groups,
    kh,
    kw,
    form.window,
  ); // [groups, kh·kw, span·ci, co]
  if (filterMatrix) {
    const matrix = g.constant("float32", [groups, kt], filterMatrix);
    const flat = lowering.reshape(products, [groups, kh * kw * ci * co]);
    lowering.set(
      dw,
      lowering.reshape(g.op("Microsoft:FusedMatMul", [matrix, flat], { transA: 1 }), dw.shape),
    );
    return;
  }
  const [first, end] = form.taps;
  const split = lowering.transpose(
    lowering.reshape(products, [kh, kw, span, ci, co]),
    [2, 0, 1, 3, 4],
  );
  const whole =
    span === kt ? split : g.op("Pad", [split, g.ints([first, 0, 0, 0, 0, kt - end, 0, 0, 0, 0])]);
  lowering.set(dw, whole);
};

/**
 * [B, T, H, W, bt·bh·bw·C] to [B, T·bt, H·bh, W·bw, C], channels ordered (bt, bh, bw, C); with `back`
 * the inverse. Rows of pixels are moved whole; the last interleaving is a product.
 */
function depthToSpace(back: boolean): Rule {
  return (lowering, node) => {
    const [x] = node.inputs as [Value];
    const [y] = node.outputs as [Value];
    const [bt, bh, bw] = node.attrs["block"] as [number, number, number];
    const [b, t, h, w] = (back ? y : x).shape as [number, number, number, number, number];
    const c = (back ? x : y).shape[4]!;
    if (back) {
      const rows = interleave(lowering, lowering.full(x, "first"), bw, w, true);
      const split = lowering.reshape(rows, [b, t, bt, c, h, bh, bw, w]);
      store(lowering, y, lowering.transpose(split, [0, 1, 2, 5, 6, 3, 4, 7]));
    } else {
      const split = lowering.reshape(lowering.full(x, "first"), [b, t, bt, bh, bw, c, h, w]);
      store(
        lowering,
        y,
        interleave(lowering, lowering.transpose(split, [0, 1, 2, 5, 6, 3, 4, 7]), bw, w),
      );
    }
  };
}

export const convolutionRules: { readonly [op: string]: Rule } = {
  Conv: conv,
  ConvInputGrad: convInputGrad,
  ConvFilterGrad: convFilterGrad,
  DepthToSpace3d: depthToSpace(false),
  SpaceToDepth3d: depthToSpace(true),
};
