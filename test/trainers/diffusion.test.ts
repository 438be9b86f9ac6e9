/** @file A diffusion over continuous latents through all stages, interrupted and not. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/resolve.ts";
import { clipGenerator } from "../../src/eval/generation.ts";
import { isDiffusion } from "../../src/objectives/diffusion.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";
import { openRun } from "../../src/trainers/open-run.ts";
import { runExperiment, type RunResult } from "../../src/trainers/run.ts";
import { StopRequest } from "../../src/trainers/signals.ts";
import { latentStatistics, readTokens, tokensPath } from "../../src/trainers/tokens.ts";
import { temporaryFolder } from "./support.ts";

const file = fileURLToPath(new URL("tiny-diffusion.yaml", import.meta.url));
const load = (...overrides: string[]) =>
  loadConfig<Experiment>({ file, overrides, schema: experimentSchema, checks });

/** Run, asking for a stop at the first line that holds `at`. */
function run(output: string, at?: string): Promise<RunResult> {
  const stop = new StopRequest();
  return runExperiment(load(`output=${output}`), {
    stop,
    output: {
      terminal: false,
      line: (text) => at !== undefined && text.includes(at) && stop.request("SIGTERM"),
    },
  });
}

describe("a run", { timeout: 120_000 }, () => {
  const whole = temporaryFolder();
  let result: RunResult;
  beforeAll(async () => {
    result = await run(whole);
  }, 120_000);

  test("comes to its end with samples", () => {
    expect(result.state).toBe("finished");
    expect(existsSync(join(result.dir, "samples/generated.png"))).toBe(true);
  });

  test("ends in the same bytes when it was interrupted", async () => {
    const output = temporaryFolder();
    expect((await run(output, "transformer 5:")).state).toBe("interrupted");
    const resumed = await run(output);
    expect(resumed.state).toBe("finished");
    for (const name of [
      "tokens/train.arrow",
      "tokens/validation.arrow",
      "checkpoints/transformer/step-00000016.safetensors",
      "scores.json",
    ]) {
      const [a, b] = [result.dir, resumed.dir].map((dir) => readFileSync(join(dir, name)));
      expect({ name, equal: a!.equals(b!) }).toEqual({ name, equal: true });
    }
  });

  test("opens with the statistics of its cached latents, and generates from frames", async () => {
    const opened = await openRun(result.dir);
    const { objective, tokenizer, device } = opened;
    try {
      if (objective === undefined || !isDiffusion(objective)) {
        throw new Error("no diffusion");
      }
      const cache = readTokens(tokensPath(result.dir, "train"));
      const { mean, deviation } = latentStatistics(cache, 4);
      expect([...objective.mean.dataSync()]).toEqual([...mean]);
      expect([...objective.deviation.dataSync()]).toEqual([...deviation]);
      expect(cache.codes!.length).toBe(cache.size * cache.length * 4);

      const clips = await opened.dataset("validation");
      const sources = await Promise.all([0, 1].map((i) => clips.get(i, 0)));
      const generate = clipGenerator(device, tokenizer, objective);
      const made = await generate({ task: "CFP", sources, seed: 1 });
      expect(made.clips).toEqual((await generate({ task: "CFP", sources, seed: 1 })).clips);
      expect(made.clips).not.toEqual((await generate({ task: "CFP", sources, seed: 2 })).clips);
      const frame = 16 * 16 * 3;
      expect(made.shown![0]!.slice(0, frame)).toEqual(sources[0]!.clip.slice(0, frame));
      // A causal tokenizer decodes the given first latent as it would that of the clip itself.
      const again = await generate({ task: "CFP", sources, seed: 2 });
      expect(again.clips![1]!.slice(0, frame)).toEqual(made.clips![1]!.slice(0, frame));
      expect((await generate({ sources, seed: 1 })).clips).toHaveLength(2);
      await expect(generate({ task: "OPC", sources, seed: 1 })).rejects.toThrow("not trained");
    } finally {
      await opened.close();
    }
  });
});

test.each([
  [
    "tokenizer.quantizer={type: lfq, bits: 4, factor_bits: 4}",
    "latents, and this tokenizer's are quantized",
  ],
  ["objective={type: masked}", "this tokenizer's latents are continuous"],
  ["model={type: transformer}", "does not train a transformer"],
  ["model.temporal_window=[2, 0, 0]", "do not tile the latent grid"],
  ["objective.condition_frames=2", "end inside a latent frame"],
  ["objective.condition_frames=5", "leave nothing to predict"],
  ["objective.tasks=[{task: FP}, {task: FP}]", "stands twice"],
])("%s is an error", (override, message) => {
  expect(() => load(override)).toThrow(message);
});
