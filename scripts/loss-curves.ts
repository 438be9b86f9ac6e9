/**
 * @file The same training on several devices: 200 steps of a small tokenizer and of a small transformer on
 * the same data from the same weights, and how far the loss curves part.
 *
 *   loss-curves [--steps N] [--out FILE] DEVICE[:PRECISION]...     e.g. cpu torch-cpu cuda:fp32 cuda:bf16
 *   loss-curves --compare FILE...                                  curves of several machines
 *
 * Printed for each pair with the first curve: the largest relative difference over all steps, and that of
 * the mean of the last 20 steps.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { type Opened, configOf, openTokenizer, openTransformer } from "../bench/gpu-workloads.ts";
import { openDevice } from "../src/runtime/registry.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    steps: { type: "string", default: "200" },
    out: { type: "string" },
    compare: { type: "boolean", default: false },
  },
});

type Curves = { [task: string]: { [device: string]: number[] } };
const curves: Curves = {};

const small = {
  tokenizer: [
    "dataset.frames=5",
    "dataset.height=32",
    "dataset.width=32",
    "tokenizer.base_channels=16",
    "tokenizer.channel_multipliers=[1,2]",
    "tokenizer.temporal_strides=[2]",
    "tokenizer.spatial_strides=[2]",
    "tokenizer.blocks=1",
    "tokenizer.bottleneck_blocks=1",
    "tokenizer.norm_groups=8",
    "trainer.tokenizer.lr=3e-4",
    "tokenizer.quantizer.entropy_weight=0.02",
    "tokenizer.quantizer.entropy_temperature=1",
  ],
  transformer: [
    "dataset.frames=5",
    "dataset.height=64",
    "dataset.width=64",
    "tokenizer.quantizer.bits=6",
    "tokenizer.quantizer.factor_bits=6",
    "model.width=128",
    "model.depth=3",
    "model.heads=2",
    "trainer.transformer.lr=1e-3",
    "objective=@causal",
  ],
};

if (values.compare) {
  for (const file of positionals) {
    const found = JSON.parse(readFileSync(file, "utf8")) as Curves;
    for (const [task, byDevice] of Object.entries(found)) {
      curves[task] = { ...curves[task], ...byDevice };
    }
  }
} else {
  const steps = Number(values.steps);
  for (const name of positionals) {
    const [type, precision = "fp32"] = name.split(":") as [
      "cuda",
      "fp32" | "bf16" | "tf32" | undefined,
    ];
    const device = await openDevice(
      (type as string) === "cpu" ? { type: "cpu" } : { type, precision },
    );
    process.stdout.write(`${name}: ${device.info.description}\n`);
    for (const task of ["tokenizer", "transformer"] as const) {
      const config = configOf({
        experiment: `gpu-${task}`,
        overrides: small[task],
        twin: task,
        batch: 8,
        title: "",
      });
      const opened: Opened =
        task === "tokenizer"
          ? await openTokenizer(config, device, 8, true)
          : await openTransformer(config, device, { twin: "transformer", batch: 8 }, true);
      const losses: number[] = [];
      const begin = performance.now();
      for (let step = 0; step < steps; step++) {
        losses.push((await opened.run()).loss!);
      }
      const ms = (performance.now() - begin) / steps;
      process.stdout.write(
        `  ${task}: ${losses[0]!.toFixed(4)} to ${losses.at(-1)!.toFixed(4)}, ${ms.toFixed(1)} ms a step\n`,
      );
      curves[task] = { ...curves[task], [name]: losses };
    }
  }
  if (values.out) {
    writeFileSync(values.out, JSON.stringify(curves));
  }
}

const mean = (xs: readonly number[]) => xs.reduce((a, b) => a + b, 0) / xs.length;
for (const [task, byDevice] of Object.entries(curves)) {
  const [[first, base] = ["", []], ...others] = Object.entries(byDevice);
  for (const [name, losses] of others) {
    const apart = losses.map((loss, i) => Math.abs(loss - base[i]!) / Math.abs(base[i]!));
    const end = mean(losses.slice(-20)) / mean(base.slice(-20)) - 1;
    process.stdout.write(
      `${task}: ${name} against ${first}: at most ${Math.max(...apart).toExponential(2)} apart, end ${(100 * end).toFixed(3)} %\n`,
    );
  }
}
process.exit(0);
