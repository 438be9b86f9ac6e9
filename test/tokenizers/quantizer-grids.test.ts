/** @file Any quantizer, of any size, on latents of one, two or three dimensions: a training step and a round trip. */

import * as tf from "@tensorflow/tfjs-core";
import { Ajv } from "ajv";
import fc from "fast-check";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import type { Device } from "../../src/runtime/device.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32 } from "../../src/runtime/tensors.ts";
import type { Grid } from "../../src/tokenizers/quantizers/quantizer.ts";
import {
  buildQuantizer,
  type QuantizerConfig,
  quantizerSchema,
} from "../../src/tokenizers/quantizers/registry.ts";
import { sym, worstError } from "./helpers.ts";

const validate = new Ajv({ strict: false, discriminator: true, useDefaults: true }).compile(
  quantizerSchema,
);

const int = (min: number, max: number) => fc.integer({ min, max });
const [size, width] = [int(2, 300), int(1, 9)];
const is = <T extends string>(type: T) => fc.constant(type);
const learned = {
  size,
  learn: fc.constantFrom("ema", "gradient"),
  distance: fc.constantFrom("cosine", "euclidean"),
  kmeans_steps: fc.nat(2),
  restart_below: fc.constantFrom(0, 0.5),
  entropy_weight: fc.constantFrom(0, 0.1),
};
const configs = fc.oneof(
  fc.record({ type: is("vq"), width: fc.constant(12), groups: fc.constantFrom(1, 2, 3, 4, 6, 12), ...learned }), // biome-ignore format: one record
  fc.record({ type: is("rvq"), width, levels: int(1, 6), dropout: fc.constantFrom(0, 0.5, 1), ...learned }), // biome-ignore format: one record
  fc.record({ type: is("gumbel"), size, width, hard: fc.boolean(), logits: fc.constantFrom("linear", "distance"), entropy_weight: fc.constantFrom(0, 0.1) }), // biome-ignore format: one record
  fc.record({ type: is("ibq"), size, width }),
  fc.record({ type: fc.constantFrom("lfq", "bsq"), bits: int(1, 40), factor_bits: int(1, 16), entropy_group_bits: int(1, 12) }), // biome-ignore format: one record
  fc.record({ type: is("fsq"), levels: fc.array(int(2, 256), { minLength: 1, maxLength: 8 }), bound: fc.constantFrom("paper", "widened", "symmetric"), factor_size: fc.constantFrom(2, 16, 256, 65536) }), // biome-ignore format: one record
  fc.record({ type: is("none"), width, kl_weight: fc.constantFrom(0, 0.1) }),
);
const clips = int(1, 3);
const grids: fc.Arbitrary<Grid> = fc.oneof(
  fc.tuple(clips, int(1, 30), fc.constant(1), fc.constant(1)), // sounds
  fc.tuple(clips, fc.constant(1), int(1, 7), int(1, 7)), // pictures
  fc.tuple(clips, int(1, 3), int(1, 5), int(1, 5)), // videos
);

let device: Device;
beforeAll(async () => {
  device = await openDevice({ type: "cpu", threads: 1 });
});
afterAll(() => device.dispose());

it("trains on it, and gives ids and codes that belong together", async () => {
  let count = 0;
  const property = fc.asyncProperty(configs, grids, int(0, 1e6), async (changes, grid, seed) => {
    const config: object = structuredClone(changes);
    expect(validate(config)).toBe(true);
    device.activate();
    const scope = Scope.root(seed % 1000);
    const quantizer = buildQuantizer(config as QuantizerConfig, scope);
    const parameters = [...scope.trainable().values()];
    count += 1;
    const train = device.compile(`train${count}`, ({ z, step, ...noise }) => {
      let [ids, codes]: (tf.Tensor | undefined)[] = [];
      const total = (): tf.Scalar => {
        const made = quantizer.quantize(z as tf.Tensor5D, step as tf.Scalar, true, noise);
        [ids, codes] = [tf.keep(made.ids), tf.keep(made.codes)];
        return tf.add(made.loss, tf.mean(tf.square(made.codes)));
      };
      if (parameters.length === 0) {
        const loss = total();
        return { loss, ids: ids!, codes: codes! };
      }
      const { value: loss, grads } = tf.variableGrads(total, parameters);
      const slopes = parameters.map((one, i) => [`slope${i}`, grads[one.name]!] as const);
      return { loss, ids: ids!, codes: codes!, ...Object.fromEntries(slopes) };
    });
    const shape = [...grid, quantizer.latentWidth];
    const values = sym(seed, shape.reduce((a, b) => a * b, 1)); // biome-ignore format: one call
    const z = float32(
      shape,
      Float32Array.from(values, (v) => 2 * v),
    );
    for (let n = 0; n < 2; n++) {
      const noise = quantizer.inputs?.(grid, seed, n) ?? {};
      const made = await train({ z, step: float32([], [n]), ...noise });
      const bad = Object.entries(made).filter(([, { data }]) => !Array.from(data).every(Number.isFinite)); // biome-ignore format: one call
      expect(bad.map(([name]) => name)).toEqual([]);
      expect(made["ids"]!.shape).toEqual([...grid, quantizer.factors.length]);
      expect(made["codes"]!.shape).toEqual([...grid, quantizer.width]);
    }
    if (quantizer.type === "none") {
      return;
    }
    const read = device.compile(`read${count}`, (inputs) => {
      const { ids, codes } = quantizer.assign(inputs["z"] as tf.Tensor5D);
      const again = quantizer.indices ? quantizer.lookup(quantizer.indices(codes)) : codes;
      return { ids, codes, looked: quantizer.lookup(ids), again };
    });
    const { ids, codes, looked, again } = await read({ z });
    const outside = Array.from(ids!.data).filter(
      (id, i) => id < 0 || id >= quantizer.factors[i % quantizer.factors.length]!,
    );
    expect(outside).toEqual([]);
    expect(worstError(looked!.data, codes!.data)).toBeLessThan(1e-5);
    // By codes: two that were restarted from like latents may be equal, or nearer than distances tell.
    expect(worstError(again!.data, codes!.data)).toBeLessThan(1e-2);
  });
  await fc.assert(property, { numRuns: 40 });
});
