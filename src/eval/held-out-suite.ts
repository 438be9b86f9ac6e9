/**
 * @file Suite `held-out`: the objective's own loss on held-out clips, with its metrics, as scores: what a
 * transformer is compared by when its samples are not the question (factorised heads, weight tying, padding,
 * groups of lengths). Masks, tasks and noise are those of (seed, batch), the same in every run.
 *
 * For a masked or causal objective the loss is nats a token, and `bits` says it in bits a pixel of the clip,
 * so that vocabularies can be compared (for a masked one this is the loss averaged over mask ratios, not a
 * likelihood). A multi-modal objective adds the share of padding: in its groups, if all tasks were padded to
 * one length, and if sequences were packed into rows of that length.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Sample } from "../data/dataset.ts";
import { isDiffusion } from "../objectives/diffusion.ts";
import { isMultimodal } from "../objectives/multimodal/objective.ts";
import { packedPadding } from "../objectives/multimodal/packing.ts";
import type { Objective, TokenBatch } from "../objectives/objective.ts";
import { isSuperResolution } from "../objectives/super-resolution/objective.ts";
import { variantEncoder } from "../objectives/variants.ts";
import { sizeOf, uint8 } from "../runtime/tensors.ts";
import { reduceClip } from "../tokenizers/low-resolution.ts";
import { checkClipShape, chooseClips, clipKeys, clipSampling } from "./clips.ts";
import { captionIds } from "./generation.ts";
import { score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("held-out"),
    ...clipKeys,
  },
  { description: "The transformer's own loss on held-out clips, and its metrics." },
);
export type HeldOutConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: HeldOutConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(config: HeldOutConfig, name: string, context: EvalContext): Promise<Score[]> {
  const { objective, tokenizer, device, batch } = context;
  if (objective === undefined) {
    throw new UserError(
      "the suite held-out judges transformers, and the run trains none",
      `switch it off with evals.${name}=null`,
    );
  }
  const dataset = await context.dataset(config.split);
  checkClipShape(dataset, tokenizer.clip);
  const rows = Array.from(chooseClips(dataset.size, config.clips, config.seed));
  const batches = Math.floor(rows.length / batch);
  if (batches === 0) {
    throw new UserError(
      `suite ${name}: ${rows.length} clips do not fill a batch of ${batch}`,
      "raise `clips`, or lower trainer.evaluation.batch",
    );
  }
  const loss = device.compile(`eval/held-out/${name}`, (inputs) => {
    const made = objective.loss(inputs);
    return { ...made.metrics, loss: made.loss };
  });
  const fill = batchMaker(context, objective, config.seed);
  const sums = new Map<string, number[]>();
  for (let k = 0; k < batches; k++) {
    const samples = await Promise.all(
      rows.slice(k * batch, (k + 1) * batch).map((index) => dataset.get(index, 0)),
    );
    const inputs = objective.inputs(await fill(samples, k), config.seed, k, false);
    for (const [key, value] of Object.entries(await loss(inputs))) {
      const values = sums.get(key) ?? [];
      values.push(value.data[0]!);
      sums.set(key, values);
    }
    context.progress("held-out loss", k + 1, batches);
  }
  const choices = {
    split: config.split,
    clips: batches * batch,
    sampling: clipSampling,
    sampling_seed: config.seed,
    dataset: dataset.fingerprint,
    objective: objective.type,
    batch,
  };
  const scores: Score[] = [];
  const add = (key: string, values: readonly number[], unit: string | undefined, of: object) => {
    const value = values.reduce((sum, x) => sum + x, 0) / values.length;
    const variance = values.reduce((sum, x) => sum + (x - value) ** 2, 0) / values.length;
    scores.push(
      score(
        {
          name: `${name}/${key}`,
          value,
          ...(unit && { unit }),
          better: /loss|bits|padding/.test(key)
            ? "lower"
            : /accuracy/.test(key)
              ? "higher"
              : "none",
          n: values.length,
          std: Math.sqrt(variance / values.length),
        },
        "held-out:loss",
        { ...choices, ...of, quantity: key },
      ),
    );
  };
  for (const [key, values] of sums) {
    add(key, values, key === "loss" && !isDiffusion(objective) ? "nats" : undefined, {});
  }
  if (objective.type === "masked" || objective.type === "causal") {
    const { frames, height, width } = tokenizer.clip;
    const scale = sizeOf(tokenizer.grid) / (Math.LN2 * frames * height * width);
    const bits = sums.get("loss")!.map((value) => value * scale);
    add("bits", bits, "bits/pixel", {});
  }
  if (isMultimodal(objective)) {
    const lengths = objective.layouts.map(({ slots }) => slots.length);
    add("padding_grouped", [objective.padding.grouped], undefined, {});
    add("padding_single", [objective.padding.single], undefined, {});
    const rule = "first fit over 64 sequences in rows of the longest";
    add("padding_packed", [packedPadding(lengths, objective.weights, 4096, 64)], undefined, {
      rule,
    });
  }
  return scores;
}

/** Makes the batch that the objective trains on from samples: tokens, conditions, texts, sound. */
function batchMaker(
  { device, tokenizer }: EvalContext,
  objective: Objective,
  seed: number,
): (samples: readonly Sample[], step: number) => Promise<TokenBatch> {
  const { frames, height, width } = tokenizer.clip;
  const { tasks, space, textLength = 0 } = objective;
  const variants = variantEncoder(device, tokenizer, tasks?.conditionFrames ?? 1);
  return async (samples, step) => {
    const size = samples.length;
    const join = (clips: readonly Uint8Array[]): Uint8Array => {
      const bytes = new Uint8Array(size * clips[0]!.length);
      clips.forEach((clip, i) => bytes.set(clip, i * clip.length));
      return bytes;
    };
    const clips = join(samples.map(({ clip }) => clip));
    const pixels = uint8([size, frames, height, width, 3], clips);
    const { ids, codes } = await tokenizerFunctions(device, tokenizer).encode(pixels);
    const batch: TokenBatch = {
      ids,
      labels: Int32Array.from(samples, ({ label }) => label),
      size,
      ...(tokenizer.continuous && { codes }),
    };
    if (isSuperResolution(objective)) {
      const { low, factor } = objective;
      const small = join(samples.map(({ clip }) => reduceClip(clip, tokenizer.clip, factor)));
      const shape = [size, frames, low.clip.height, low.clip.width, 3];
      const encoded = await tokenizerFunctions(device, low).encode(uint8(shape, small));
      return { ...batch, low: encoded.ids, texts: captionIds(objective, samples) };
    }
    if (tasks === undefined) {
      return batch;
    }
    const drawn = tasks.draw(size, seed, step, false);
    const changes = Array.from(drawn, (task) => tasks.variants[task]);
    const texts = new Int32Array(size * textLength).fill(-1);
    if (space.text) {
      samples.forEach(({ caption }, i) =>
        texts.set(space.text!.encode(caption, textLength), i * textLength),
      );
    }
    const sound =
      space.audio &&
      Int32Array.from(samples.flatMap(({ audio }) => [...space.audio!.encode(audio!)]));
    return {
      ...batch,
      conditions: { tasks: drawn, ids: (await variants(clips, changes)).ids },
      ...(space.text && { texts }),
      ...(sound && { audio: sound }),
    };
  };
}
