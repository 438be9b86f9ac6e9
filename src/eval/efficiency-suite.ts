/**
 * @file Suite `efficiency`: what the networks cost. Parameters and operations are counted and come out the
 * same everywhere; clips and tokens a second and the memory are measured on this machine, and no two
 * measurements agree to the bit (their scores say `measured`).
 */

import { closed, type Static, Type } from "../config/schema.ts";
import { countFlops } from "../runtime/flops.ts";
import { int32, sizeOf, uint8 } from "../runtime/tensors.ts";
import { clipKeys } from "./clips.ts";
import { clipGenerator, tasksOf } from "./generation.ts";
import { score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("efficiency"),
    split: clipKeys.split,
    seconds: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description: "Time that each speed is measured for, after one call that is not counted.",
    }),
    task: Type.Optional(
      Type.String({
        description: "The task that is sampled; the objective's first when left out.",
      }),
    ),
  },
  {
    description: "Parameters, operations, clips and tokens a second, and memory of the networks.",
  },
);
export type EfficiencyConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: EfficiencyConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(config: EfficiencyConfig, name: string, context: EvalContext): Promise<Score[]> {
  const { device, tokenizer, objective, batch } = context;
  const dataset = await context.dataset(config.split);
  const { frames, height, width } = tokenizer.clip;
  const sources = await Promise.all(
    Array.from({ length: batch }, (_, i) => dataset.get(i % dataset.size, 0)),
  );
  const pixels = new Uint8Array(batch * frames * height * width * 3);
  sources.forEach(({ clip }, i) => pixels.set(clip, i * clip.length));
  const clips = uint8([batch, frames, height, width, 3], pixels);
  const shape = [batch, ...tokenizer.grid, tokenizer.factors.length];
  const tokens = batch * sizeOf(tokenizer.grid);

  const scores: Score[] = [];
  const counted = (quantity: string, value: number, unit?: string): void => {
    const one = { name: `${name}/${quantity}`, value, better: "lower", n: 1 } as const;
    scores.push(score({ ...one, ...(unit && { unit }) }, "efficiency:counted", { of: quantity }));
  };
  const choices = { batch, device: device.info.description, seconds: config.seconds };
  const measured = (quantity: string, value: number, unit: string, n: number): void => {
    const better = unit.endsWith("/s") ? "higher" : "lower";
    const one = { name: `${name}/${quantity}`, value, unit, better, n } as const;
    const made = score(one, "efficiency:measured", { ...choices, of: quantity });
    scores.push({ ...made, measured: true });
  };
  /** Calls a second, and how many were timed. */
  const speed = async (what: string, call: () => Promise<unknown>) => {
    context.progress(what);
    await call();
    const start = performance.now();
    let calls = 0;
    let seconds = 0;
    do {
      await call();
      calls++;
      seconds = (performance.now() - start) / 1000;
    } while (seconds < config.seconds);
    return { rate: calls / seconds, calls };
  };

  counted("tokenizer_parameters", tokenizer.scope.parameterCount());
  const { encode, decode } = tokenizerFunctions(device, tokenizer);
  const ids = tokenizer.continuous ? undefined : (await encode(clips)).ids;
  const encoding = await speed("encoding", () => encode(clips));
  measured("encode", encoding.rate * batch, "clips/s", encoding.calls);
  if (ids !== undefined) {
    const decoding = await speed("decoding", () => decode(int32(shape, ids)));
    measured("decode", decoding.rate * batch, "clips/s", decoding.calls);
  }
  const task = config.task ?? (objective ? tasksOf(objective)[0] : undefined);
  const request = { ...(task !== undefined && { task }), sources, seed: 0 };
  if (objective !== undefined) {
    counted("transformer_parameters", objective.scope.parameterCount());
    const generate = clipGenerator(device, tokenizer, objective);
    const sampling = await speed("sampling", () => generate(request));
    measured("sample", sampling.rate * batch, "clips/s", sampling.calls);
    measured("sample_tokens", sampling.rate * tokens, "tokens/s", sampling.calls);
  }
  const memory = device.memory?.().most ?? process.resourceUsage().maxRSS * 1024;
  measured("peak_memory", memory / 2 ** 20, "MiB", 1);

  if (device.type === "reference" || device.type.startsWith("tfjs-node")) {
    context.warn(`operations are counted on graphs, and ${device.type} runs without: left out`);
    return scores;
  }
  try {
    const perClip = (flops: number) => flops / batch / 1e9;
    const encoded = await countFlops((d) => tokenizerFunctions(d, tokenizer).encode(clips));
    counted("encode_gflop", perClip(encoded), "GFLOP/clip");
    if (ids !== undefined) {
      const decoded = await countFlops((d) =>
        tokenizerFunctions(d, tokenizer).decode(int32(shape, ids)),
      );
      counted("decode_gflop", perClip(decoded), "GFLOP/clip");
    }
    if (objective !== undefined) {
      const sampled = await countFlops((d) => clipGenerator(d, tokenizer, objective)(request));
      counted("sample_gflop", perClip(sampled), "GFLOP/clip");
    }
  } finally {
    device.activate();
  }
  return scores;
}
