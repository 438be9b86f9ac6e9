import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { buildTransformer, type Transformer } from "../../src/models/transformer.ts";
import { buildCausalSampler, type CausalSampling } from "../../src/objectives/causal-sampler.ts";
import { decodingCounts } from "../../src/objectives/mask-schedule.ts";
import { buildMaskedSampler, type MaskedSampling } from "../../src/objectives/masked-sampler.ts";
import type { SampleOptions } from "../../src/objectives/objective.ts";
import type { Device } from "../../src/runtime/device.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { causalSampling, maskedSampling, randomBatch, shake, tinyModel } from "./support.ts";

const space = { grid: [2, 2, 2], factors: [4, 6], classes: 3 } as const;
const N = 8;
const F = 2;
const labels = Int32Array.of(0, 2, 1);

let device: Device;
let bidirectional: Transformer;
let causal: Transformer;

beforeAll(async () => {
  device = await openDevice({ type: "reference" });
  bidirectional = buildTransformer(tinyModel, space, { mask: true }, Scope.root(1));
  causal = buildTransformer(tinyModel, space, { mask: false }, Scope.root(2));
  shake(bidirectional.scope);
  shake(causal.scope);
});

type Sample = (options: SampleOptions) => Promise<Int32Array>;
const masked = (config: Partial<MaskedSampling> = {}): Sample =>
  buildMaskedSampler(device, bidirectional, { ...maskedSampling, ...config });
const nextToken = (config: Partial<CausalSampling> = {}): Sample =>
  buildCausalSampler(device, causal, { ...causalSampling, ...config });

const kinds = [
  { kind: "masked", make: masked },
  { kind: "causal", make: nextToken },
];

describe.each(kinds)("$kind sampler", ({ make }) => {
  test("gives sub-ids in range, the same for the same seed, others for another", async () => {
    const sample = make();
    const ids = await sample({ labels, seed: 5 });
    expect(ids.length).toBe(3 * N * F);
    ids.forEach((id, i) => {
      expect(id).toBeGreaterThanOrEqual(0);
      expect(id).toBeLessThan(space.factors[i % F]!);
    });
    expect(await make()({ labels, seed: 5 })).toEqual(ids);
    expect(await sample({ labels, seed: 5 })).toEqual(ids);
    expect(await sample({ labels, seed: 6 })).not.toEqual(ids);
  });

  test("a sample does not depend on how many others are made with it", async () => {
    const sample = make();
    const three = await sample({ labels, seed: 5 });
    const one = await sample({ labels: labels.slice(0, 1), seed: 5 });
    expect(one).toEqual(three.slice(0, N * F));
  });

  test("given tokens never change, whichever they are", async () => {
    const sample = make();
    const { ids } = randomBatch(space, 3, 8);
    for (const seed of [0, 1, 2]) {
      const random = new Random(seed, "known");
      const known = Uint8Array.from({ length: 3 * N }, () => random.int(2));
      // What stands at places that are not given is not looked at.
      const dirty = ids.map((id, i) => (known[Math.floor(i / F)] ? id : -77));
      const made = await sample({ labels, seed, condition: { ids: dirty, known } });
      const given = (values: Int32Array) => values.filter((_, i) => known[Math.floor(i / F)]);
      expect(given(made)).toEqual(given(ids));
      expect(Math.min(...made)).toBeGreaterThanOrEqual(0);
    }
    const all = { ids, known: new Uint8Array(3 * N).fill(1) };
    expect(await sample({ labels, seed: 1, condition: all })).toEqual(ids);
  });

  test("a condition of the wrong size or out of range is refused", async () => {
    const sample = make();
    const known = new Uint8Array(3 * N).fill(1);
    const ids = new Int32Array(3 * N * F);
    await expect(
      sample({ labels, seed: 0, condition: { ids, known: known.slice(1) } }),
    ).rejects.toThrow("expected 3 × 8 tokens of 2 sub-ids");
    ids[4] = 4;
    await expect(sample({ labels, seed: 0, condition: { ids, known } })).rejects.toThrow(
      "sub-id 4 at index 4 is not in 0..3",
    );
  });

  test("guidance 1 is the label's own, 0 is no label's, and in between the ends meet", async () => {
    const options = { labels, seed: 9 };
    const none = { labels: labels.map(() => -1), seed: 9 };
    const plain = await make({ guidance: 1 })(options);
    const unconditional = await make({ guidance: 0 })(options);
    expect(unconditional).toEqual(await make({ guidance: 1 })(none));
    expect(plain).not.toEqual(unconditional);
    // The doubled pass, a hair from the ends, agrees with the single ones.
    expect(await make({ guidance: 1 + 1e-6 })(options)).toEqual(plain);
    expect(await make({ guidance: 1e-6 })(options)).toEqual(unconditional);
    expect(await make({ guidance: 6 })(options)).not.toEqual(plain);
  });

  test("temperature 0 gives one answer for all seeds", async () => {
    const sample = make({ temperature: 0, choice_temperature: 0 });
    expect(await sample({ labels, seed: 1 })).toEqual(await sample({ labels, seed: 2 }));
  });
});

describe("masked sampler", () => {
  test.each([1, 3, 8, 50])("%i steps decide exactly what the schedule says", async (steps) => {
    const seen: number[] = [];
    const spying: Device = {
      ...device,
      compile: (name, fn) =>
        device.compile(name, (inputs) => {
          seen.push([...inputs.undecided!.dataSync()].reduce((sum, flag) => sum + flag, 0));
          return fn(inputs);
        }),
    };
    const sample = buildMaskedSampler(spying, bidirectional, { ...maskedSampling, steps });
    const progress: number[] = [];
    const onProgress = (done: number) => progress.push(done);
    await sample({ labels: labels.slice(0, 1), seed: 3, onProgress });
    const counts = decodingCounts("cosine", N, steps);
    const hidden = counts.map((_, i) => counts.slice(i).reduce((sum, count) => sum + count, 0));
    expect(seen).toEqual(hidden);
    expect(progress).toEqual(counts.map((_, i) => i + 1));
  });

  test("samples with different numbers of given tokens each follow their own schedule", async () => {
    const { ids } = randomBatch(space, 3, 8);
    const known = new Uint8Array(3 * N);
    known.fill(1, 0, N - 1);
    known.fill(1, N, N + 3);
    const made = await masked({ steps: 6 })({ labels, seed: 1, condition: { ids, known } });
    expect(made.slice(0, (N - 1) * F)).toEqual(ids.slice(0, (N - 1) * F));
  });

  test("one greedy step takes the likeliest id of each place", async () => {
    const sample = masked({ steps: 1, temperature: 0 });
    const made = await sample({ labels: labels.slice(0, 1), seed: 1 });
    const logits = bidirectional.bidirectional(
      tf.zeros([1, N, F], "int32"),
      tf.fill([1, N], 1, "bool"),
      tf.tensor1d([labels[0]!], "int32"),
    );
    const best = logits.map((each) => tf.argMax(each, 1).dataSync());
    expect([...made]).toEqual(
      Array.from({ length: N * F }, (_, i) => best[i % F]![Math.floor(i / F)]),
    );
  });
});

describe("causal sampler", () => {
  test.each([
    {},
    { guidance: 3 },
    { top_k: 2, temperature: 0.7 },
    { top_p: 0.8 },
    { temperature: 0 },
  ])("the cache gives the same tokens as computing anew, %o", async (config) => {
    const known = Uint8Array.from({ length: 3 * N }, (_, i) => Number(i % 3 === 0));
    const { ids } = randomBatch(space, 3, 8);
    const condition = { ids, known };
    const cached = nextToken({ ...config, cache: true });
    const anew = nextToken({ ...config, cache: false });
    for (const seed of [1, 2]) {
      expect(await cached({ labels, seed })).toEqual(await anew({ labels, seed }));
      const conditioned = await cached({ labels, seed, condition });
      expect(conditioned).toEqual(await anew({ labels, seed, condition }));
    }
  });

  test("frequencies follow the model's own probabilities", async () => {
    const tiny = { grid: [1, 1, 2], factors: [3], classes: 0 } as const;
    const transformer = buildTransformer(tinyModel, tiny, { mask: false }, Scope.root(2));
    shake(transformer.scope, 0.5);
    const size = 4000;
    const sample = buildCausalSampler(device, transformer, causalSampling);
    const made = await sample({ labels: new Int32Array(size).fill(-1), seed: 4 });
    const counts = new Float64Array(9);
    for (let b = 0; b < size; b++) {
      counts[made[2 * b]! * 3 + made[2 * b + 1]!]! += 1 / size;
    }
    for (let pair = 0; pair < 9; pair++) {
      const first = Math.floor(pair / 3);
      const logits = transformer.causal(
        tf.tensor3d([first, pair % 3], [1, 2, 1], "int32"),
        tf.tensor1d([0], "int32"),
      )[0]!;
      const probs = tf.softmax(logits).arraySync();
      const expected = probs[0]![first]! * probs[1]![pair % 3]!;
      const spread = Math.sqrt((expected * (1 - expected)) / size);
      expect(Math.abs(counts[pair]! - expected)).toBeLessThan(4 * spread + 1e-6);
    }
  });
});
