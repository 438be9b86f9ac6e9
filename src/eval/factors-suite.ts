/**
 * @file Suite `factors`: does what was asked for appear in generated clips? Motion, shape and colour
 * are read off each clip of `moving-shapes` and compared with what the condition says; sound is
 * compared with what the picture calls for. Beside every score stand the reader's accuracy on real
 * clips and on reconstructions, which a generator cannot be expected to pass.
 *
 * For a transformer by class the class alone is asked for. A task that shows pixels is judged against
 * the clip that they were taken from.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Sample } from "../data/dataset.ts";
import { taskParts } from "../objectives/multimodal/layouts.ts";
import { uint8 } from "../runtime/tensors.ts";
import { chooseClips, clipKeys, clipSampling, samplingKey, toBytes } from "./clips.ts";
import {
  expectedPitch,
  type FactorName,
  factorNames,
  type FactorReader,
  fitFactorReader,
  pitchCurve,
  pitchError,
} from "./factor-reader.ts";
import { clipGenerator, tasksOf } from "./generation.ts";
import { score } from "./protocols.ts";
import { checkMovingShapes, makeAll } from "./made-clips.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("factors"),
    ...clipKeys,
    ...samplingKey,
    clips: Type.Integer({
      minimum: 1,
      default: 96,
      description: "Clips a task; all of the split when it has fewer.",
    }),
    train_clips: Type.Integer({
      minimum: 60,
      default: 960,
      description: "Real training clips that the reader is fitted on.",
    }),
    reader: Type.Union([Type.Literal("real"), Type.Literal("real+reconstructed")], {
      default: "real+reconstructed",
      description:
        "Whether the reader is fitted on real clips alone, or also on what the tokenizer makes of them, whose blur generated clips share.",
    }),
    tasks: Type.Array(Type.String(), {
      default: [],
      description: "Tasks to judge; all of the objective's when empty.",
    }),
    chains: Type.Optional(
      Type.Array(Type.Array(Type.String(), { minItems: 2 }), {
        description:
          "Chains of tasks, each working on the clips that the one before made (VideoPoet's task chaining); judged after every task.",
      }),
    ),
  },
  {
    description:
      "Whether motion, shape, colour and sound of generated clips are the ones asked for.",
  },
);
export type FactorsConfig = Static<typeof schema>;

/** Sound within this many semitones of what the picture calls for counts as matching. */
const MATCH = 1.5;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: FactorsConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(config: FactorsConfig, name: string, context: EvalContext): Promise<Score[]> {
  const dataset = await context.dataset(config.split);
  const train = await context.dataset("train");
  checkMovingShapes(dataset, "factors", name);
  const { tokenizer, objective, device } = context;
  const size = tokenizer.clip;
  const fitted = Array.from(chooseClips(train.size, config.train_clips, config.seed));
  const real = await Promise.all(fitted.map((index) => train.get(index, 0)));
  const blurred =
    config.reader === "real"
      ? []
      : (await reconstructions(context, real)).map((clip, i) => ({ ...real[i]!, clip }));
  const reader = fitFactorReader([...real, ...blurred], size);
  const rows = Array.from(chooseClips(dataset.size, config.clips, config.seed));
  const samples = await Promise.all(rows.map((index) => dataset.get(index, 0)));
  const choices = {
    split: config.split,
    clips: samples.length,
    sampling: clipSampling,
    sampling_seed: config.seed,
    dataset: dataset.fingerprint,
    train_clips: fitted.length,
    fitted_on: config.reader,
  };
  const scores: Score[] = [];
  const report = (
    what: string,
    read: readonly Uint8Array[],
    asked: readonly FactorName[],
    better: "higher" | "none",
  ): void => {
    const right = accuracy(reader, read, samples);
    for (const factor of asked) {
      const value = 100 * right[factor];
      const std = Math.sqrt((value * (100 - value)) / samples.length);
      scores.push(
        score(
          { name: `${name}/${what}/${factor}`, value, unit: "%", better, n: samples.length, std },
          "factors:moving-shapes",
          { ...choices, of: what, factor },
        ),
      );
    }
  };

  report(
    "real",
    samples.map(({ clip }) => clip),
    factorNames,
    "none",
  );
  report("reconstructed", await reconstructions(context, samples), factorNames, "none");
  if (objective === undefined) {
    return scores;
  }
  const generate = clipGenerator(device, tokenizer, objective);
  const known = tasksOf(objective);
  const { chains = [] } = config;
  const unknown = [...config.tasks, ...chains.flat()].find((task) => !known.includes(task));
  if (unknown !== undefined) {
    throw new UserError(
      `evals.${name}: the objective has no task ${unknown}`,
      `its tasks are ${known.join(", ") || "none: it samples by class"}`,
    );
  }
  const wanted: readonly (string | undefined)[] =
    known.length === 0 ? [undefined] : config.tasks.length > 0 ? config.tasks : known;
  /** Clips and sound of a task whose conditions come from `given`. */
  const perform = (task: string | undefined, given: readonly Sample[], stream: string) => {
    const asked = { task, given, seed: config.seed, stream: `eval/factors/${stream}` };
    return makeAll(generate, asked, context, stream);
  };
  for (const task of wanted) {
    const { clips, sound } = await perform(task, samples, task ?? "class");
    const what = task ?? "generated";
    const image =
      clips[0] !== undefined && clips[0].length < size.frames * size.height * size.width * 3;
    if (clips.length > 0) {
      const still = image ? clips.map((clip) => repeat(clip, size.frames)) : clips;
      report(what, still, askedFactors(task, image), "higher");
    }
    if (sound.length > 0) {
      // Sound that goes with a made picture is held against that, else against the given one.
      const pictures = clips.length > 0 && !image ? clips : samples.map(({ clip }) => clip);
      const rate = (sound[0]!.length * dataset.fps) / size.frames;
      const errors = sound.map((wave, i) =>
        pitchError(pitchCurve(wave, rate, size.frames), expectedPitch(pictures[i]!, size)),
      );
      const value = (100 * errors.filter((error) => error <= MATCH).length) / errors.length;
      scores.push(
        score(
          {
            name: `${name}/${what}/sound`,
            value,
            unit: "%",
            better: "higher",
            n: errors.length,
            std: Math.sqrt((value * (100 - value)) / errors.length),
          },
          "factors:sound",
          { ...choices, of: what, semitones: MATCH },
        ),
      );
    }
  }
  const whole = size.frames * size.height * size.width * 3;
  for (const chain of chains) {
    let given: readonly Sample[] = samples;
    let factors: readonly FactorName[] = factorNames;
    for (const [i, task] of chain.entries()) {
      const path = chain.slice(0, i + 1).join("+");
      const { clips, sound } = await perform(task, given, path);
      if (clips[0]?.length !== whole) {
        throw new UserError(
          `evals.${name}.chains: ${task} in ${chain.join(" + ")} makes no video to go on with`,
          "chain tasks that make video",
        );
      }
      // Nothing is asked for that an earlier task did not ask for.
      factors = factors.filter((factor) => askedFactors(task, false).includes(factor));
      report(`chain/${path}`, clips, factors, "higher");
      given = given.map((sample, k) => ({
        ...sample,
        clip: clips[k]!,
        ...(sound[k] && { audio: sound[k] }),
      }));
    }
  }
  for (const factor of factorNames) {
    const judged = wanted
      .filter((task) => task !== undefined)
      .map((task) => ({ task, own: scores.find((s) => s.name === `${name}/${task}/${factor}`) }))
      .filter(({ own }) => own !== undefined);
    if (judged.length > 1) {
      const value = judged.reduce((sum, { own }) => sum + own!.value, 0) / judged.length;
      scores.push(
        score(
          {
            name: `${name}/average/${factor}`,
            value,
            unit: "%",
            better: "higher",
            n: samples.length,
          },
          "factors:moving-shapes",
          { ...choices, factor, mean_over_tasks: judged.map(({ task }) => task).sort() },
        ),
      );
    }
  }
  const sounding = samples.filter(({ audio }) => audio !== undefined);
  if (sounding.length > 0) {
    const rate = (sounding[0]!.audio!.length * dataset.fps) / size.frames;
    const matches = sounding.filter(({ audio, clip }) => {
      return pitchError(pitchCurve(audio!, rate, size.frames), expectedPitch(clip, size)) <= MATCH;
    });
    scores.push(
      score(
        {
          name: `${name}/real/sound`,
          value: (100 * matches.length) / sounding.length,
          unit: "%",
          better: "none",
          n: sounding.length,
        },
        "factors:sound",
        { ...choices, of: "real", semitones: MATCH },
      ),
    );
  }
  return scores;
}

/** What a task lets one ask for. */
function askedFactors(task: string | undefined, image: boolean): readonly FactorName[] {
  if (image) {
    return ["shape", "colour"];
  }
  if (task === undefined || task === "CG") {
    return ["motion"];
  }
  if (task === "UNC") {
    return [];
  }
  if (task === "SR" || task === "T2V") {
    return factorNames;
  }
  if (task in taskParts) {
    const { text, visual, audio } = taskParts[task as keyof typeof taskParts];
    // The sound of a shape tells its outline and its height, not its colour; one frame no motion.
    return audio && !visual && !text
      ? ["motion", "shape"]
      : visual === "image"
        ? ["shape", "colour"]
        : factorNames;
  }
  return task === "FP" ? ["shape", "colour"] : factorNames;
}

/** The share of clips of which each factor is read as the sample's own. */
export function accuracy(
  reader: FactorReader,
  clips: readonly Uint8Array[],
  samples: readonly Sample[],
): { [name in FactorName]: number } {
  const read = clips.map((clip) => reader.read(clip));
  const share = (factor: FactorName): number =>
    read.filter((one, i) => one[factor] === samples[i]!.factors![factor]).length / read.length;
  return { motion: share("motion"), shape: share("shape"), colour: share("colour") };
}

function repeat(frame: Uint8Array, times: number): Uint8Array {
  const clip = new Uint8Array(frame.length * times);
  for (let t = 0; t < times; t++) {
    clip.set(frame, t * frame.length);
  }
  return clip;
}

/** What the tokenizer makes of samples, as bytes. */
export async function reconstructions(
  { device, tokenizer, batch }: Pick<EvalContext, "device" | "tokenizer" | "batch">,
  samples: readonly Sample[],
): Promise<Uint8Array[]> {
  const { frames, height, width } = tokenizer.clip;
  const values = frames * height * width * 3;
  const { reconstruct } = tokenizerFunctions(device, tokenizer);
  const clips: Uint8Array[] = [];
  for (let from = 0; from < samples.length; from += batch) {
    const bytes = new Uint8Array(batch * values);
    for (let i = 0; i < batch; i++) {
      bytes.set(samples[Math.min(from + i, samples.length - 1)]!.clip, i * values);
    }
    const decoded = toBytes(await reconstruct(uint8([batch, frames, height, width, 3], bytes)));
    for (let i = 0; i < Math.min(batch, samples.length - from); i++) {
      clips.push(decoded.slice(i * values, (i + 1) * values));
    }
  }
  return clips;
}
