/**
 * @file `npx tsx scripts/token-consistency.ts RUN...`: how far the tokens of a picture depend on where it
 * lies (claim 3: borders). Each held-out frame is laid out as a still clip and shifted by whole token
 * strides, its outside filled with its own edge; tokens of the same content at the border of one clip and
 * inside of another are compared. Prints the agreement rate of border tokens and of inner tokens a run.
 * For runs of tokenizers with one token a stride (vqgan, magvit, magvit2, patches).
 */

import { int32, uint8 } from "../src/runtime/tensors.ts";
import { hostIds } from "../src/tokenizers/host.ts";
import { openRun } from "../src/trainers/open-run.ts";

const CLIPS = 24;

for (const dir of process.argv.slice(2)) {
  const run = await openRun(dir, { tokenizerOnly: true });
  const { tokenizer } = run;
  const { frames, height, width } = tokenizer.clip;
  const [, rows, columns] = tokenizer.grid;
  const [strideY, strideX] = [height / rows, width / columns];
  const data = await run.dataset("validation");
  const encode = hostIds(run.device, tokenizer, "consistency");
  const factors = tokenizer.factors.length;
  const counts = { border: [0, 0], inside: [0, 0] };
  for (let i = 0; i < Math.min(CLIPS, data.size); i++) {
    const { clip } = await data.get(i, 0);
    const frame = clip.subarray(0, height * width * 3);
    const still = (dx: number): Uint8Array => {
      const out = new Uint8Array(frames * height * width * 3);
      for (let t = 0; t < frames; t++) {
        for (let y = 0; y < height; y++) {
          for (let x = 0; x < width; x++) {
            const from = Math.min(width - 1, Math.max(0, x + dx));
            const at = (y * width + from) * 3;
            out.set(frame.subarray(at, at + 3), ((t * height + y) * width + x) * 3);
          }
        }
      }
      return out;
    };
    const shape = [1, frames, height, width, 3];
    const tokens = async (dx: number) =>
      int32(
        [rows, columns * factors],
        (await encode(uint8(shape, still(dx)))).data.slice(
          0,
          rows * columns * factors,
        ) as Int32Array,
      ).data;
    const [here, moved] = [await tokens(0), await tokens(strideX)];
    for (let y = 0; y < rows; y++) {
      for (let x = 1; x < columns; x++) {
        // Column x of the picture is column x - 1 of the shifted one: there column 0 is at the border.
        const kind = x === 1 ? counts.border : x > 1 && x < columns - 1 ? counts.inside : undefined;
        if (kind) {
          const at = (row: number, column: number, f: number) =>
            (row * columns + column) * factors + f;
          const same = Array.from(
            { length: factors },
            (_, f) => here[at(y, x, f)] === moved[at(y, x - 1, f)],
          );
          kind[0]! += same.every(Boolean) ? 1 : 0;
          kind[1]! += 1;
        }
      }
    }
  }
  const rate = ([same, all]: number[]): string => (same! / all!).toFixed(4);
  const { padding } = run.config.tokenizer as { padding?: string };
  process.stdout.write(
    `${dir}\tpadding ${padding ?? "-"}\tborder ${rate(counts.border)}\tinside ${rate(counts.inside)}\tstride ${strideY}x${strideX}\n`,
  );
  await run.close();
}
