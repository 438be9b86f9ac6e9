/** The whole DDIM loop on every device that opens: one compiled call where the device has loops. */

import * as tf from "@tensorflow/tfjs-core";
import { expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { buildDiffusion } from "../../src/objectives/diffusion.ts";
import { Random } from "../../src/runtime/random.ts";
import { type DeviceConfig, openDevice } from "../../src/runtime/registry.ts";
import { devicesHere } from "../tokenizers/golden-devices.ts";
import { shake } from "./support.ts";

const found = await devicesHere("diffusion sampling");
const length = 3 * 4 * 4 * 2;

/** Latents of two clips, the first frame given, guided; and how often progress was told. */
async function latentsOn(config: DeviceConfig): Promise<{ made: Float32Array; told: number[] }> {
  const device = await openDevice(config);
  const objective = buildDiffusion(
    {
      type: "diffusion",
      noise_schedule: "linear",
      noise_steps: 1000,
      zero_terminal_snr: true,
      image_share: 0,
      self_conditioning: 0.5,
      label_dropout: 0.3,
      tasks: [{ task: "CFP", weight: 1 }],
      condition_frames: 1,
      sampling: { steps: 5, guidance: 2, guidance_schedule: "linear", guidance_power: 4 },
    },
    {
      type: "diffusion-transformer",
      width: 8,
      depth: 2,
      heads: 2,
      mlp_ratio: 2,
      positions: "factorised",
      spatial_window: [1, 2, 4],
      temporal_window: [0, 2, 2],
      lora_rank: 2,
      qk_norm: true,
    },
    {
      grid: [3, 4, 4],
      factors: [1],
      classes: 3,
      latentWidth: 2,
      clip: { frames: 9, height: 16, width: 16, causal: true },
    },
    Scope.root(5),
  );
  shake(objective.scope);
  objective.mean.assign(tf.tensor1d([0.4, -2]));
  objective.deviation.assign(tf.tensor1d([1.5, 0.7]));
  const told: number[] = [];
  const made = await objective.latentSampler(device)({
    labels: Int32Array.of(0, 2),
    seed: 3,
    task: 0,
    codes: new Random(2, "given").normals(2 * length),
    onProgress: (done) => told.push(done),
  });
  const loops = device.loops;
  device.dispose();
  expect(told).toEqual(loops ? [5] : [1, 2, 3, 4, 5]);
  return { made, told };
}

test("every device makes the reference's latents", async () => {
  const { made: expected } = await latentsOn({ type: "reference" });
  expect(found.length).toBeGreaterThan(1);
  for (const [name, config] of found) {
    const { made } = await latentsOn(config);
    const worst = made.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i]!)), 0);
    expect({ name, close: worst < 2e-4 }).toEqual({ name, close: true });
  }
});
