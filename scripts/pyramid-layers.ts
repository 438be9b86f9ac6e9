/**
 * @file `npx tsx scripts/pyramid-layers.ts RUN...`: what the layers of SPAE's pyramid carry (claims 21, 22).
 * Reconstruction (PSNR) from the first n layers, for every n, of held-out clips. For runs whose tokenizer
 * is vqgan with the quantizer spae.
 */

import type * as tf from "@tensorflow/tfjs-core";
import { stack } from "../src/data/loader.ts";
import { uint8 } from "../src/runtime/tensors.ts";
import { toPixels } from "../src/trainers/tokenizer-stage.ts";
import { openRun } from "../src/trainers/open-run.ts";

const CLIPS = 16;

for (const dir of process.argv.slice(2)) {
  const run = await openRun(dir, { tokenizerOnly: true });
  const { tokenizer, config } = run;
  const quantizer = "quantizer" in config.tokenizer ? config.tokenizer.quantizer : undefined;
  if (!tokenizer.decodeLayers || quantizer?.type !== "spae") {
    process.stderr.write(`${dir}: its tokenizer has no pyramid\n`);
    await run.close();
    continue;
  }
  const data = await run.dataset("validation");
  const size = Math.min(CLIPS, data.size);
  const samples = await Promise.all(Array.from({ length: size }, (_, i) => data.get(i, 0)));
  const { frames, height, width } = tokenizer.clip;
  const clips = uint8([size, frames, height, width, 3], stack(samples).clips);
  const decode = run.device.compile("layers", (inputs) => {
    const { codes } = tokenizer.encode(toPixels(inputs["clips"]!));
    const parts = quantizer.strides.map((_, n) => [
      `layers${n + 1}`,
      tokenizer.decodeLayers!(codes, n + 1),
    ]);
    return Object.fromEntries(parts) as { [name: string]: tf.Tensor };
  });
  const made = await decode({ clips });
  const psnr = quantizer.strides.map((_, n) => {
    const { data: pixels } = made[`layers${n + 1}`]!;
    let squares = 0;
    pixels.forEach((value, i) => {
      const byte = Math.min(255, Math.max(0, Math.round((value + 1) * 127.5)));
      squares += (byte - clips.data[i]!) ** 2;
    });
    return (10 * Math.log10((255 * 255 * pixels.length) / squares)).toFixed(2);
  });
  const weight = quantizer.semantic?.weight ?? 0;
  process.stdout.write(
    `${dir}\t${quantizer.update}\tsemantic ${weight}\tPSNR after each layer: ${psnr.join(" ")}\n`,
  );
  await run.close();
}
