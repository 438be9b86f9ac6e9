/**
 * @file Suite `audit`: what does a generator choose where nobody asked? A prompt leaves attributes open (a
 * class says the motion, not the colour), and a model can favour some of their values, as the thesis's
 * responsible-AI probe found of people in generated videos. Many clips a prompt are made, the open
 * attributes are read off them, and their shares are compared with a reference: the shares among real
 * clips of the same prompt, or equal shares.
 *
 * The distance is total variation, ½ Σ |p - q|, averaged over prompts. It is above 0 for finite samples of
 * equal distributions, so that of as many real clips, drawn apart, stands beside it.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Sample } from "../data/dataset.ts";
import { Random } from "../runtime/random.ts";
import { chooseClips, clipKeys, clipSampling, samplingKey } from "./clips.ts";
import { type FactorName, factorNames, fitFactorReader } from "./factor-reader.ts";
import { clipGenerator, type Source, tasksOf } from "./generation.ts";
import { score } from "./protocols.ts";
import { checkMovingShapes, makeAll } from "./made-clips.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";

export const schema = closed(
  {
    type: Type.Literal("audit"),
    split: clipKeys.split,
    seed: clipKeys.seed,
    ...samplingKey,
    clips: Type.Integer({ minimum: 8, default: 64, description: "Clips made for each prompt." }),
    train_clips: Type.Integer({
      minimum: 60,
      default: 960,
      description: "Real training clips that the reader of attributes is fitted on.",
    }),
    prompts: Type.Array(Type.String(), {
      default: [],
      description: "Texts, for models that read some; the classes of the data when empty.",
    }),
    task: Type.Optional(
      Type.String({ description: "The task that makes clips from a prompt, e.g. T2V or CG." }),
    ),
    attributes: Type.Array(Type.Enum([...factorNames]), {
      default: ["shape", "colour"],
      minItems: 1,
      description: "What the prompts leave open.",
    }),
    reference: Type.Union([Type.Literal("data"), Type.Literal("uniform")], {
      default: "data",
      description:
        "Shares to compare with: those of real clips (of the class, where classes are the prompts), or equal ones among the values that occur.",
    }),
  },
  {
    description:
      "How what prompts leave open is distributed over generated clips, against a reference, with intervals.",
  },
);
export type AuditConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: AuditConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

/** One prompt's values of an attribute, read off clips. */
interface Read {
  readonly prompt: string;
  /** Of generated clips. */
  readonly values: readonly string[];
  /** Of real clips. */
  readonly real: readonly string[];
}

const RESAMPLES = 1000;

async function run(config: AuditConfig, name: string, context: EvalContext): Promise<Score[]> {
  const { objective, tokenizer, device } = context;
  if (objective === undefined) {
    throw new UserError(
      "the suite audit judges generated clips, and the run trains no transformer",
      `switch it off with evals.${name}=null`,
    );
  }
  const dataset = await context.dataset(config.split);
  const train = await context.dataset("train");
  checkMovingShapes(dataset, "audit", name);
  const known = tasksOf(objective);
  const task = config.task ?? known.find((one) => one === (config.prompts.length ? "T2V" : "CG"));
  if ((known.length > 0 && task === undefined) || (task !== undefined && !known.includes(task))) {
    throw new UserError(
      task === undefined
        ? `evals.${name}.task: which task makes clips from a prompt?`
        : `evals.${name}.task: the objective has no task ${task}`,
      `its tasks are ${known.join(", ")}`,
    );
  }
  const size = tokenizer.clip;
  const fitted = chooseClips(train.size, config.train_clips, config.seed);
  const reader = fitFactorReader(
    await Promise.all(Array.from(fitted, (index) => train.get(index, 0))),
    size,
  );
  const held: Sample[] = [];
  for (let i = 0; i < dataset.size; i++) {
    held.push(await dataset.get(i, 0));
  }
  const readHeld = held.map(({ clip }) => reader.read(clip));
  const byText = config.prompts.length > 0;
  const prompts = byText ? config.prompts : dataset.classes;
  const generate = clipGenerator(device, tokenizer, objective);
  const reads = new Map<FactorName, Read[]>(config.attributes.map((one) => [one, []]));
  for (const [p, prompt] of prompts.entries()) {
    const source: Source = byText ? { label: -1, caption: prompt } : { label: p };
    const given = Array.from({ length: config.clips }, () => source);
    const asked = { task, given, seed: config.seed, stream: `eval/audit/${p}` };
    const { clips } = await makeAll(generate, asked, context, prompt);
    if (clips.length === 0) {
      throw new UserError(`evals.${name}.task: ${task} makes no video`, "name one that does");
    }
    const found = clips.map((clip) => reader.read(clip));
    const own = readHeld.filter((_, i) => byText || held[i]!.label === p);
    for (const [attribute, list] of reads) {
      list.push({
        prompt,
        values: found.map((one) => one[attribute]),
        real: own.map((one) => one[attribute]),
      });
    }
  }

  const scores: Score[] = [];
  for (const [attribute, list] of reads) {
    const values = [...new Set(list.flatMap(({ real }) => real))].sort();
    const choices = {
      split: config.split,
      sampling: clipSampling,
      sampling_seed: config.seed,
      dataset: dataset.fingerprint,
      clips: config.clips,
      train_clips: fitted.length,
      prompts,
      reference: config.reference,
      attribute,
    };
    const n = config.clips * list.length;
    const say = (
      what: string,
      value: number,
      more: { unit?: string; std?: number; better?: "lower" },
    ) =>
      scores.push(
        score(
          { name: `${name}/${attribute}/${what}`, value, better: "none", n, ...more },
          "audit",
          {
            ...choices,
            of: what,
          },
        ),
      );
    const expected = list.map(({ real }) =>
      config.reference === "uniform" ? values.map(() => 1 / values.length) : shares(real, values),
    );
    const observed = (read: Read) => shares(read.values, values);
    say("total_variation", meanDistance(list.map(observed), expected), { better: "lower" });
    const random = new Random(config.seed, `eval/audit/resamples/${attribute}`);
    const distances = Array.from({ length: RESAMPLES }, () =>
      meanDistance(
        list.map((read) => shares(resample(read.values, random), values)),
        expected,
      ),
    ).toSorted((a, b) => a - b);
    say("total_variation_low", distances[Math.floor(0.025 * RESAMPLES)]!, {});
    say("total_variation_high", distances[Math.ceil(0.975 * RESAMPLES) - 1]!, {});
    // As many clips drawn from the reference itself: what the number of clips alone costs.
    const floors = Array.from({ length: RESAMPLES }, () =>
      meanDistance(
        expected.map((q) => shares(draw(q, values, config.clips, random), values)),
        expected,
      ),
    ).toSorted((a, b) => a - b);
    say("total_variation_of_reference", floors[RESAMPLES >> 1]!, {});
    values.forEach((value, v) => {
      const share = (100 * list.reduce((sum, read) => sum + observed(read)[v]!, 0)) / list.length;
      const wanted = (100 * expected.reduce((sum, q) => sum + q[v]!, 0)) / expected.length;
      say(`share/${value}`, share, { unit: "%", std: Math.sqrt((share * (100 - share)) / n) });
      say(`expected/${value}`, wanted, { unit: "%" });
    });
  }
  return scores;
}

/** Shares of the values; what is none of them counts in the denominator alone. */
function shares(found: readonly string[], values: readonly string[]): number[] {
  return values.map((value) => found.filter((one) => one === value).length / found.length);
}

/** ½ Σ |p - q| with what p has outside the values, averaged over prompts. */
function meanDistance(
  observed: readonly (readonly number[])[],
  expected: readonly (readonly number[])[],
): number {
  const each = observed.map((p, i) => {
    const outside = 1 - p.reduce((sum, one) => sum + one, 0);
    return (outside + p.reduce((sum, one, v) => sum + Math.abs(one - expected[i]![v]!), 0)) / 2;
  });
  return each.reduce((sum, one) => sum + one, 0) / each.length;
}

function resample(found: readonly string[], random: Random): string[] {
  return found.map(() => found[random.int(found.length)]!);
}

/** `count` values drawn with probabilities q. */
function draw(
  q: readonly number[],
  values: readonly string[],
  count: number,
  random: Random,
): string[] {
  return Array.from({ length: count }, () => {
    let rest = random.uniform();
    const at = q.findIndex((share) => (rest -= share) < 0);
    return values[at < 0 ? values.length - 1 : at]!;
  });
}
