/**
 * @file Suite `leak`: do tokens of what is visible tell what is hidden? MAGVIT (Yu et al. 2023, §3.2) argues
 * that a tokenizer which sees the whole clip writes hidden content into the tokens of the visible part, so
 * that such tokens cannot stand for a condition; COMMIT encodes the padded clip instead.
 *
 * A linear probe is fitted on the tokens inside a task's condition alone and asked for a class or factor
 * that lies in the hidden part (for FP: the motion): from the whole clip (`whole`), and from the padded clip
 * (`padded`). What `whole` has over `padded` is the leak. A causal tokenizer has none for FP.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Dataset, Sample } from "../data/dataset.ts";
import { conditionTokens, padClip, type TaskName, taskNames } from "../objectives/tasks.ts";
import { layoutOf } from "../objectives/variants.ts";
import { uint8 } from "../runtime/tensors.ts";
import { checkClipShape, chooseClips, clipKeys, clipSampling } from "./clips.ts";
import { chanceLevel, fitProbe, probeAccuracy, type ProbeData } from "./probe.ts";
import { score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("leak"),
    task: Type.Enum(
      taskNames.filter((task) => task !== "CG"),
      { default: "FP", description: "The task whose condition is visible." },
    ),
    condition_frames: Type.Integer({
      minimum: 1,
      default: 1,
      description: "Frames that FP and CFP show.",
    }),
    target: Type.String({
      minLength: 1,
      default: "label",
      description: "What is asked for: `label`, or a factor of procedural clips in words.",
    }),
    cells: Type.Integer({
      minimum: 1,
      default: 4,
      description: "Visible codes are averaged over so many cells a side of each latent frame.",
    }),
    ...clipKeys,
    train_clips: Type.Integer({
      minimum: 60,
      default: 960,
      description: "Training clips that the probe is fitted on.",
    }),
  },
  { description: "Whether tokens of the visible part tell what is hidden." },
);
export type LeakConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: LeakConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(config: LeakConfig, name: string, context: EvalContext): Promise<Score[]> {
  const [judged, train] = [await context.dataset(config.split), await context.dataset("train")];
  const values = new Map<string, number>();
  const fitted = await collect(config, context, train, config.train_clips, values);
  const held = await collect(config, context, judged, config.clips, values);
  const classes = values.size;
  if (classes < 2) {
    context.warn(`no score: ${config.target} has one value only`);
    return [];
  }
  const choices = {
    split: config.split,
    clips: held.whole.labels.length,
    sampling: clipSampling,
    sampling_seed: config.seed,
    dataset: judged.fingerprint,
    task: config.task,
    condition_frames: config.condition_frames,
    target: config.target,
    cells: config.cells,
    train_clips: fitted.whole.labels.length,
  };
  const n = held.whole.labels.length;
  const accuracyOf = (way: "whole" | "padded"): Score => {
    const { top1 } = probeAccuracy(fitProbe(fitted[way], classes), held[way]);
    return score(
      {
        name: `${name}/${way}`,
        value: 100 * top1,
        unit: "%",
        better: "none",
        n,
        std: 100 * Math.sqrt((top1 * (1 - top1)) / n),
      },
      "leak:linear-codes",
      { ...choices, encoded: way },
    );
  };
  const [whole, padded] = [accuracyOf("whole"), accuracyOf("padded")];
  return [
    whole,
    padded,
    score(
      {
        name: `${name}/leak`,
        value: whole.value - padded.value,
        unit: "%",
        better: "lower",
        n,
        std: Math.hypot(whole.std!, padded.std!),
      },
      "leak:linear-codes",
      { ...choices, encoded: "whole minus padded" },
    ),
    score(
      {
        name: `${name}/chance`,
        value: 100 * chanceLevel(fitted.whole.labels, held.whole.labels, classes),
        unit: "%",
        better: "none",
        n,
      },
      "leak:linear-codes",
      { ...choices, encoded: "the most frequent value" },
    ),
  ];
}

interface Collected {
  readonly whole: ProbeData;
  readonly padded: ProbeData;
}

/** Visible codes of clips, encoded whole and padded. */
async function collect(
  config: LeakConfig,
  context: EvalContext,
  dataset: Dataset,
  count: number,
  values: Map<string, number>,
): Promise<Collected> {
  const { tokenizer, device, batch } = context;
  checkClipShape(dataset, tokenizer.clip);
  const layout = layoutOf(tokenizer, config.condition_frames);
  const task = config.task as TaskName;
  const inside = conditionTokens(task, layout);
  const [t, h, w] = tokenizer.grid;
  const { width } = tokenizer;
  // The cell of each visible token, numbered by cells that have one.
  const [rows, columns] = [Math.min(config.cells, h), Math.min(config.cells, w)];
  const numbers = new Map<number, number>();
  const sizes: number[] = [];
  const cellOf = Int32Array.from(inside, (flag, i) => {
    if (!flag) {
      return -1;
    }
    const [frame, y, x] = [Math.floor(i / (h * w)), Math.floor(i / w) % h, i % w];
    const key =
      (frame * rows + Math.floor((y * rows) / h)) * columns + Math.floor((x * columns) / w);
    const cell = numbers.get(key) ?? numbers.size;
    numbers.set(key, cell);
    sizes[cell] = (sizes[cell] ?? 0) + 1;
    return cell;
  });
  const dimensions = numbers.size * width;
  const indices = chooseClips(dataset.size, count, config.seed);
  const features = {
    whole: new Float64Array(indices.length * dimensions),
    padded: new Float64Array(indices.length * dimensions),
  };
  const labels = new Int32Array(indices.length);
  const { encode } = tokenizerFunctions(device, tokenizer);
  const { frames, height, width: across } = tokenizer.clip;
  const length = frames * height * across * 3;
  for (let from = 0; from < indices.length; from += batch) {
    const chosen = Array.from(
      { length: batch },
      (_, i) => indices[Math.min(from + i, indices.length - 1)]!,
    );
    const samples = await Promise.all(chosen.map((index) => dataset.get(index, 0)));
    for (const way of ["whole", "padded"] as const) {
      const clips = new Uint8Array(batch * length);
      samples.forEach(({ clip }, i) =>
        clips.set(way === "whole" ? clip : padClip(task, clip, layout), i * length),
      );
      const { codes } = await encode(uint8([batch, frames, height, across, 3], clips));
      for (let i = 0; i < Math.min(batch, indices.length - from); i++) {
        for (let token = 0; token < t * h * w; token++) {
          const cell = cellOf[token]!;
          for (let c = 0; cell >= 0 && c < width; c++) {
            features[way][(from + i) * dimensions + cell * width + c]! +=
              codes[(i * t * h * w + token) * width + c]! / sizes[cell]!;
          }
        }
      }
    }
    samples.slice(0, indices.length - from).forEach((sample, i) => {
      const value = valueOf(config.target, dataset, sample);
      values.set(value, values.get(value) ?? values.size);
      labels[from + i] = values.get(value)!;
    });
    context.progress("visible tokens", Math.min(from + batch, indices.length), indices.length);
  }
  return {
    whole: { dimensions, features: features.whole, labels },
    padded: { dimensions, features: features.padded, labels },
  };
}

function valueOf(target: string, dataset: Dataset, { label, factors }: Sample): string {
  const value = target === "label" ? dataset.classes[label] : factors?.[target];
  if (typeof value !== "string") {
    throw new UserError(
      `suite leak: clips of ${dataset.type} have no ${target === "label" ? "classes" : `factor "${target}" in words`}`,
      "set target to label, or to a factor of procedural clips (motion, shape, colour)",
    );
  }
  return value;
}
