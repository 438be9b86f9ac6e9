/**
 * @file The process that codes clips for `own-process.ts`: one job in, a point for each quality out. It
 * ends with its parent.
 */

import { UserError } from "../../config/errors.ts";
import { codeClip, findCodecs } from "./codecs.ts";
import type { CoderAnswer, CoderJob } from "./own-process.ts";

// Ctrl-C reaches the whole group: the parent decides.
process.on("SIGINT", () => undefined);
process.on("disconnect", () => process.exit(0));
process.once("message", (job) => void work(job as CoderJob));

async function work({ name, clip, fps, qualities }: CoderJob): Promise<void> {
  try {
    await findCodecs();
    for (const quality of qualities) {
      const started = performance.now();
      const coded = await codeClip(name, clip, fps, quality);
      const seconds = (performance.now() - started) / 1000;
      const peakBytes = process.resourceUsage().maxRSS * 1024;
      const taken = new Promise((resolve) => process.once("message", resolve));
      await send({ point: { ...coded, quality, seconds, peakBytes } });
      await taken;
    }
  } catch (error) {
    const hint = error instanceof UserError ? error.hint : undefined;
    await send({ error: error instanceof Error ? error.message : String(error), ...(hint && { hint }) }); // biome-ignore format: one call
  }
  process.disconnect();
}

function send(answer: CoderAnswer): Promise<void> {
  return new Promise((resolve, reject) => {
    process.send!(answer, (error: Error | null) => (error ? reject(error) : resolve()));
  });
}
