/**
 * @file Suite `token-consistency`: how far the token of a patch depends on where in the picture it lies.
 * A network that sees zeros beyond the border can tell that it is near one, and gives the same content
 * other tokens there (MAGVIT, Yu et al., CVPR 2023, §3.1: why its convolutions reflect).
 *
 * A clip's first frame, shown at all times, is tokenized whole and again cut by one token's width at one
 * of its sides (what leaves the picture there comes in as a repeated edge on the other side). Content that
 * was one token away from the border now lies at it: `border`. Content at least three tokens away from
 * every border in both is `inside`: what a shift alone changes. All four sides are cut in turn.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { uint8 } from "../runtime/tensors.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys } from "./clips.ts";
import { clipChoices, type Measured, score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  { type: Type.Literal("token-consistency"), ...clipKeys },
  { description: "Whether equal content has equal tokens at a border and inside." },
);

export type ConsistencyConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: ConsistencyConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

/** Tokens between a place and the border from which on it counts as inside. */
const INSIDE = 3;

/** Cuts of one token: how far the content moves, in tokens (x, y). */
const cuts = [
  [-1, 0],
  [1, 0],
  [0, -1],
  [0, 1],
] as const;

/**
 * A still clip of a picture whose content has moved by (dx, dy) pixels; the edge fills what is missing.
 * @param frame [H, W, 3]
 * @param out [T, H, W, 3], written
 */
export function shiftedStill(
  frame: Uint8Array,
  [height, width]: readonly [number, number],
  [dx, dy]: readonly [number, number],
  out: Uint8Array,
): void {
  const size = height * width * 3;
  const clamp = (value: number, side: number): number => Math.min(side - 1, Math.max(0, value));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (clamp(y - dy, height) * width + clamp(x - dx, width)) * 3;
      out.set(frame.subarray(from, from + 3), (y * width + x) * 3);
    }
  }
  for (let at = size; at < out.length; at += size) {
    out.copyWithin(at, 0, size);
  }
}

/** What is summed over the compared places of one kind. */
class Tally {
  count = 0;
  same = 0;
  /** Squared differences of codes. */
  squares = 0;
}

/**
 * Which places of the cut picture count, and as what: at its cut side, or inside in both pictures.
 * Along the cut side only the places at least `INSIDE` from its ends count, so that one border is looked at.
 */
export function placeKind(
  [x, y]: readonly [number, number],
  [columns, rows]: readonly [number, number],
  [dx, dy]: readonly [number, number],
): "border" | "inside" | undefined {
  const depth = (at: number, side: number): number => Math.min(at, side - 1 - at);
  const [along, sideAlong] = dx === 0 ? [x, columns] : [y, rows];
  if (depth(along, sideAlong) < INSIDE) {
    return undefined;
  }
  const [across, side, move] = dx === 0 ? [y, rows, dy] : [x, columns, dx];
  if (across === (move < 0 ? 0 : side - 1)) {
    return "border";
  }
  const before = across - move;
  return depth(across, side) >= INSIDE && depth(before, side) >= INSIDE ? "inside" : undefined;
}

async function run(
  config: ConsistencyConfig,
  name: string,
  context: EvalContext,
): Promise<Score[]> {
  const dataset = await context.dataset(config.split);
  const { tokenizer } = context;
  checkClipShape(dataset, tokenizer.clip);
  const { frames, height, width } = tokenizer.clip;
  const [t, rows, columns] = tokenizer.grid;
  const least = 2 * INSIDE + 2;
  if (rows < least || columns < least || height % rows !== 0 || width % columns !== 0) {
    throw new UserError(
      `suite ${name}: it takes one token a patch of the picture and at least ${least} x ${least} of them; the tokenizer has ${rows} x ${columns} for ${height} x ${width} pixels`,
      "use larger pictures or a finer grid, or leave the suite out",
    );
  }
  const strides = [width / columns, height / rows] as const;
  const { encode } = tokenizerFunctions(context.device, tokenizer);
  const indices = chooseClips(dataset.size, config.clips, config.seed);
  const stream = new ClipStream(dataset, indices, context.batch);
  const clipSize = frames * height * width * 3;
  const shape = [context.batch, frames, height, width, 3];
  const factors = tokenizer.factors.length;
  const d = tokenizer.width;
  const kinds = { border: new Tally(), inside: new Tally() };
  // Mean and squares of all codes, channel by channel: the scale of a difference.
  const sums = new Float64Array(d);
  const squares = new Float64Array(d);
  let codesSeen = 0;
  let done = 0;
  for await (const batch of stream) {
    const still = async (dx: number, dy: number) => {
      const bytes = new Uint8Array(context.batch * clipSize);
      for (let i = 0; i < context.batch; i++) {
        const frame = batch.clips.data.subarray(i * clipSize, i * clipSize + height * width * 3);
        const out = bytes.subarray(i * clipSize, (i + 1) * clipSize);
        const move = [dx * strides[0], dy * strides[1]] as const;
        shiftedStill(frame as Uint8Array, [height, width], move, out);
      }
      return encode(uint8(shape, bytes));
    };
    const whole = await still(0, 0);
    for (let i = 0; i < batch.size * t * rows * columns; i++) {
      for (let c = 0; c < d; c++) {
        const value = whole.codes[i * d + c]!;
        sums[c]! += value;
        squares[c]! += value * value;
      }
      codesSeen += 1;
    }
    for (const [dx, dy] of cuts) {
      const cut = await still(dx, dy);
      for (let i = 0; i < batch.size * t * rows * columns; i++) {
        const x = i % columns;
        const y = Math.floor(i / columns) % rows;
        const kind = placeKind([x, y], [columns, rows], [dx, dy]);
        if (kind === undefined) {
          continue;
        }
        const tally = kinds[kind];
        const before = i - dy * columns - dx;
        let same = true;
        for (let f = 0; f < factors; f++) {
          same &&= cut.ids[i * factors + f] === whole.ids[before * factors + f];
        }
        for (let c = 0; c < d; c++) {
          tally.squares += (cut.codes[i * d + c]! - whole.codes[before * d + c]!) ** 2;
        }
        tally.same += same ? 1 : 0;
        tally.count += 1;
      }
    }
    done += batch.size;
    context.progress("clips", done, indices.length);
  }
  const variance = sums.reduce(
    (sum, value, c) => sum + squares[c]! / codesSeen - (value / codesSeen) ** 2,
    0,
  );
  const agreement = ({ same, count }: Tally): number => (100 * same) / count;
  const difference = (tally: Tally): number =>
    variance > 0 ? tally.squares / tally.count / (2 * variance) : 0;
  const { border, inside } = kinds;
  const choices = { ...clipChoices(stream, config.seed), grid: [rows, columns] };
  const of = (measured: Measured, at: string): Score =>
    score(measured, "consistency:cut-stills", { ...choices, at });
  const share = (quantity: string, value: number, tally: Tally, at: string): Score =>
    of({ name: `${name}/${quantity}`, value, unit: "%", better: "higher", n: tally.count }, at);
  return [
    ...(tokenizer.continuous
      ? []
      : [
          share("border", agreement(border), border, "border"),
          share("inside", agreement(inside), inside, "inside"),
          of(
            {
              name: `${name}/gap`,
              value: agreement(inside) - agreement(border),
              unit: "%",
              better: "lower",
              n: border.count,
            },
            "inside less border",
          ),
        ]),
    of(
      {
        name: `${name}/border_difference`,
        value: difference(border),
        better: "lower",
        n: border.count,
      },
      "border, codes",
    ),
    of(
      {
        name: `${name}/inside_difference`,
        value: difference(inside),
        better: "lower",
        n: inside.count,
      },
      "inside, codes",
    ),
  ];
}
