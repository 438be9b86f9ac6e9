import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { buildConditions } from "../../src/objectives/conditioning.ts";
import { buildMasked, type MaskedConfig } from "../../src/objectives/masked.ts";
import {
  conditionPixels,
  conditionTokens,
  latentOfFrame,
  padClip,
  type TaskLayout,
  type TaskName,
  taskNames,
  taskPrompts,
} from "../../src/objectives/tasks.ts";
import { guidanceScale } from "../../src/objectives/sampling.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { maskedSampling, randomBatch, shake, tinyModel, withoutTasks } from "./support.ts";

const device = await openDevice({ type: "reference" });

/** MAGVIT's clips: 16 frames of 128 × 128, 4 × 16 × 16 tokens. */
const paper: TaskLayout = {
  clip: { frames: 16, height: 128, width: 128, causal: false },
  grid: [4, 16, 16],
  conditionFrames: 1,
};
const small: TaskLayout = {
  clip: { frames: 17, height: 32, width: 32, causal: true },
  grid: [5, 8, 8],
  conditionFrames: 1,
};
const count = (flags: Uint8Array) => flags.reduce((sum, flag) => sum + flag, 0);

describe("the tasks of MAGVIT (table 12)", () => {
  test.each([
    ["FP", 94, 256],
    ["FI", 87, 512],
    ["OPC", 75, 256],
    ["OPV", 50, 512],
    ["OPH", 50, 512],
    ["OPD", 50, 512],
    ["IPC", 25, 768],
    ["IPD", 25, 768],
    ["CG", 100, 0],
    ["CFP", 94, 256],
  ] as const)("%s hides %i %% of the pixels and gives %i of 1024 tokens", (task, share, tokens) => {
    const pixels = conditionPixels(task, paper);
    expect(Math.abs(100 * (1 - count(pixels) / pixels.length) - share)).toBeLessThanOrEqual(0.5);
    expect(count(conditionTokens(task, paper))).toBe(tokens);
  });

  test("a prefix makes sequences of 1024 to 1792 tokens", () => {
    const lengths = taskNames.map((task) => 1024 + count(conditionTokens(task, paper)));
    expect([Math.min(...lengths), Math.max(...lengths)]).toEqual([1024, 1792]);
  });

  test("five given frames of K600 lie in two latent frames, of a causal tokenizer's 1 + 4", () => {
    const five = { ...paper, conditionFrames: 5 };
    expect(count(conditionTokens("FP", five))).toBe(512);
    expect(count(conditionTokens("FP", { ...small, conditionFrames: 5 }))).toBe(2 * 64);
    expect([...latentOfFrame(small)]).toEqual([0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4]);
    expect([...latentOfFrame(paper)].filter((latent) => latent === 3)).toHaveLength(4);
  });

  test.each(taskNames)("%s: given pixels stay, padding looks at nothing else", (task) => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 255 }), fc.integer(), (fill, salt) => {
        const given = conditionPixels(task, small);
        const clip = Uint8Array.from(
          { length: given.length * 3 },
          (_, i) => (i * 7919 + salt) & 255,
        );
        const other = clip.map((value, i) => (given[Math.floor(i / 3)] ? value : fill));
        const padded = padClip(task, clip, small);
        expect(padClip(task, other, small)).toEqual(padded);
        const kept = (bytes: Uint8Array) => bytes.filter((_, i) => given[Math.floor(i / 3)]);
        expect(kept(padded)).toEqual(kept(clip));
      }),
      { numRuns: 5 },
    );
  });

  test("what the padding is: frames repeated, interpolated, edges repeated, zeros", () => {
    const { frames, height, width } = small.clip;
    const clip = new Uint8Array(frames * height * width * 3);
    const at = (bytes: Uint8Array, t: number, y: number, x: number) =>
      bytes[((t * height + y) * width + x) * 3]!;
    for (let t = 0; t < frames; t++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          clip.fill(
            8 * t + y + 2 * x,
            ((t * height + y) * width + x) * 3,
            ((t * height + y) * width + x + 1) * 3,
          );
        }
      }
    }
    expect(at(padClip("FP", clip, small), 9, 3, 5)).toBe(3 + 10);
    expect(at(padClip("FI", clip, small), 4, 3, 5)).toBe(8 * 4 + 13);
    expect(at(padClip("OPC", clip, small), 2, 0, 31)).toBe(16 + 8 + 2 * 23);
    expect(at(padClip("OPV", clip, small), 2, 0, 31)).toBe(16 + 0 + 2 * 23);
    expect(at(padClip("OPH", clip, small), 2, 0, 31)).toBe(16 + 8 + 2 * 31);
    expect(at(padClip("OPD", clip, small), 0, 4, 15)).toBe(4 + 30);
    expect(at(padClip("OPD", clip, small), 0, 4, 16)).toBe(0);
    expect(at(padClip("OPD", clip, small), 16, 4, 16)).toBe((128 + 4 + 32) & 255);
    expect(at(padClip("IPC", clip, small), 5, 15, 15)).toBe(0);
    expect(at(padClip("IPD", clip, small), 0, 15, 24)).toBe(40 - 40 + 15 + 48);
  });

  test("MAGVIT's prompts: the six painting tasks share one", () => {
    expect(taskPrompts(taskNames, "each").count).toBe(10);
    const { prompts, count: shared } = taskPrompts(taskNames, "magvit");
    expect(shared).toBe(4); // prediction, interpolation, painting, full generation
    expect([...prompts]).toEqual([0, 1, 2, 2, 2, 2, 2, 2, 3, 0]);
  });
});

const space = {
  grid: [5, 8, 8],
  factors: [7, 3],
  classes: 4,
  clip: small.clip,
} as const;

const config = (changes: Partial<MaskedConfig> = {}): MaskedConfig => ({
  type: "masked",
  mask_schedule: "cosine",
  label_dropout: 0.2,
  label_smoothing: 0,
  ...withoutTasks,
  tasks: [
    { task: "FP", weight: 1 },
    { task: "IPC", weight: 2 },
    { task: "CG", weight: 1 },
  ],
  reconstruct_weight: 1,
  sampling: maskedSampling,
  ...changes,
});

function conditionalBatch(tasks: Int32Array, seed = 3) {
  const batch = randomBatch(space, tasks.length, seed);
  return { ...batch, conditions: { tasks, ids: randomBatch(space, tasks.length, seed + 1).ids } };
}

describe("mixtures", () => {
  const options = { conditionFrames: 1, prompts: "each", stream: "s" } as const;

  test("tasks come as often as their weights say, and the same step draws the same", () => {
    const mixture = buildConditions(config().tasks, "commit", options, space);
    const counts = [0, 0, 0];
    for (let step = 0; step < 200; step++) {
      const tasks = mixture.draw(8, 5, step, true);
      tasks.forEach((task) => counts[task]!++);
      expect(mixture.draw(8, 5, step, true)).toEqual(tasks);
    }
    const expected = [400, 800, 400];
    counts.forEach((n, i) => expect(Math.abs(n - expected[i]!)).toBeLessThan(4 * 20));
    expect(mixture.draw(8, 5, 1, false)).not.toEqual(mixture.draw(8, 5, 1, true));
  });

  test("with a prefix the samples of a step share a task", () => {
    const mixture = buildConditions(config().tasks, "prefix", options, space);
    const drawn = Array.from({ length: 40 }, (_, step) => new Set(mixture.draw(4, 0, step, true)));
    expect(drawn.every(({ size }) => size === 1)).toBe(true);
    expect(new Set(drawn.flatMap((set) => [...set])).size).toBe(3);
  });
});

describe("COMMIT", () => {
  const tokens = 320;
  const objective = buildMasked(config(), tinyModel, space, Scope.root(1));
  const tasks = Int32Array.of(0, 1, 2, 1, 0, 2, 1, 1);
  const names: TaskName[] = ["FP", "IPC", "CG"];

  test("hidden and inside: the condition's token; hidden and outside: [MASK]; else the target", () => {
    const batch = conditionalBatch(tasks);
    for (let step = 0; step < 4; step++) {
      const inputs = objective.inputs(batch, 0, step, true);
      const dropped = inputs.dropped!.data;
      const seen = { refine: 0, mask: 0, reconstruct: 0 };
      for (let b = 0; b < tasks.length; b++) {
        const inside = conditionTokens(names[tasks[b]!]!, small);
        for (let n = 0; n < tokens; n++) {
          const i = b * tokens + n;
          const ids = (of: ArrayLike<number>) => [of[2 * i], of[2 * i + 1]];
          const part = (["reconstruct", "mask", "refine"] as const)[inputs.part!.data[i]!]!;
          seen[part]++;
          expect(ids(inputs.ids!.data)).toEqual(ids(batch.ids));
          expect(inputs.masked!.data[i]).toBe(Number(part === "mask"));
          const holds = inside[n] === 1 && dropped[b] === 0;
          expect(part === "reconstruct" || (part === "refine") === holds).toBe(true);
          const expected = part === "refine" ? batch.conditions.ids : batch.ids;
          const shown = part === "mask" ? expected : inputs.seen!.data;
          expect(ids(shown)).toEqual(ids(expected));
        }
      }
      expect(Math.min(seen.refine, seen.mask, seen.reconstruct)).toBeGreaterThan(0);
    }
  });

  test("only tasks with a class are told it", () => {
    const { labels } = objective.inputs(conditionalBatch(tasks), 0, 0, false);
    labels!.data.forEach((label, b) => {
      expect(label === space.classes).toBe(names[tasks[b]!] !== "CG");
    });
  });

  test("the same step gives the same inputs; held-out ones drop nothing", () => {
    const batch = conditionalBatch(tasks);
    expect(objective.inputs(batch, 1, 6, true)).toEqual(objective.inputs(batch, 1, 6, true));
    expect(objective.inputs(batch, 1, 6, false).dropped).toBeUndefined();
  });

  test("a batch without conditions, or a space without clips, is refused", () => {
    expect(() => objective.inputs(randomBatch(space, 2, 0), 0, 0, true)).toThrow("conditions");
    const { clip: _, ...blind } = space;
    expect(() => buildMasked(config(), tinyModel, blind, Scope.root(1))).toThrow("clips");
  });
});

describe("sampling under conditions", () => {
  const size = 3;
  const tokens = 12;
  const grid = [3, 2, 2] as const;
  const tiny = { ...space, grid, clip: { frames: 9, height: 8, width: 8, causal: true } };
  const ids = (seed: number) => randomBatch(tiny, size, seed).ids;
  const labels = Int32Array.of(1, 0, 3);
  const build = (changes: Partial<MaskedConfig>) => {
    const objective = buildMasked(config(changes), tinyModel, tiny, Scope.root(1));
    shake(objective.scope);
    return objective.sampler(device);
  };
  const request = (task: number, given: Int32Array, seed = 4) => ({
    labels,
    seed,
    conditions: { tasks: new Int32Array(size).fill(task), ids: given },
  });

  test.each(["commit", "prefix"] as const)(
    "%s: tokens inside the condition matter, others do not",
    async (conditioning) => {
      const sample = build({ conditioning });
      const inside = conditionTokens("FP", { clip: tiny.clip, grid, conditionFrames: 1 });
      const changed = (where: number) =>
        ids(5).map((id, i) => (inside[Math.floor(i / 2) % tokens] === where ? (id + 1) % 3 : id));
      const made = await sample(request(0, ids(5)));
      expect(await sample(request(0, changed(0)))).toEqual(made);
      expect(await sample(request(0, changed(1)))).not.toEqual(made);
      // Full generation has no inside at all.
      expect(await sample(request(2, changed(1)))).toEqual(await sample(request(2, ids(5))));
    },
  );

  test("latent masking gives the condition's tokens back unchanged", async () => {
    const sample = build({ conditioning: "latent-masking" });
    const inside = conditionTokens("FP", { clip: tiny.clip, grid, conditionFrames: 1 });
    const made = await sample(request(0, ids(5)));
    const given = (of: Int32Array) => of.filter((_, i) => inside[Math.floor(i / 2) % tokens]);
    expect(given(made)).toEqual(given(ids(5)));
  });

  test.each(["commit", "prefix", "latent-masking"] as const)(
    "%s: known tokens never change, at any number of steps and in any order",
    async (conditioning) => {
      for (const [steps, order] of [
        [1, "confidence"],
        [3, "halton"],
        [5, "random"],
        [40, "halton"],
      ] as const) {
        const sample = build({ conditioning, sampling: { ...maskedSampling, steps, order } });
        const known = Uint8Array.from({ length: size * tokens }, (_, i) => Number(i % 5 === 2));
        const made = await sample({ ...request(1, ids(6)), condition: { ids: ids(7), known } });
        const kept = (of: Int32Array) => of.filter((_, i) => known[Math.floor(i / 2)]);
        expect(kept(made)).toEqual(kept(ids(7)));
      }
    },
  );

  test.each(["commit", "prefix"] as const)(
    "%s: guidance 0 ignores class and condition",
    async (conditioning) => {
      const sample = build({ conditioning, sampling: { ...maskedSampling, guidance: 0 } });
      expect(await sample(request(0, ids(5)))).toEqual(await sample(request(0, ids(9))));
      const guided = build({ conditioning, sampling: { ...maskedSampling, guidance: 1e-6 } });
      expect(await guided(request(0, ids(5)))).toEqual(await sample(request(0, ids(5))));
      const plain = build({ conditioning });
      const almost = build({ conditioning, sampling: { ...maskedSampling, guidance: 1 + 1e-6 } });
      expect(await almost(request(0, ids(5)))).toEqual(await plain(request(0, ids(5))));
    },
  );

  test("a guidance schedule starts at 1 and ends at s", () => {
    const of = (schedule: "constant" | "linear" | "power-cosine", step: number) =>
      guidanceScale({ guidance: 5, guidance_schedule: schedule, guidance_power: 4 }, step, 8);
    expect([1, 8].map((step) => of("constant", step))).toEqual([5, 5]);
    expect([2, 8].map((step) => of("linear", step))).toEqual([2, 5]);
    expect(of("power-cosine", 8)).toBeCloseTo(5, 12);
    expect(of("power-cosine", 4)).toBeCloseTo(1 + 2 * (1 - Math.cos(Math.PI / 16)), 12);
  });

  test("guidance without dropout training, a missing task, tokens out of range: one error each", async () => {
    const sampling = { ...maskedSampling, guidance: 3 };
    expect(() => build({ label_dropout: 0, sampling })).toThrow("label_dropout is 0");
    const sample = build({ tasks: [{ task: "FP", weight: 1 }] });
    await expect(sample({ labels, seed: 0 })).rejects.toThrow("needs a task");
    await expect(sample(request(4, ids(5)))).rejects.toThrow("task 4");
    await expect(sample(request(0, ids(5).fill(99)))).rejects.toThrow("sub-id 99");
    const plain = build({ tasks: [] });
    await expect(plain(request(0, ids(5)))).rejects.toThrow("without conditional tasks");
  });
});
