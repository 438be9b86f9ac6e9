/** @file Codecs in a process of their own: equal sizes again and again, crashes told; mosaics of small clips. */

import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { findCodecs } from "../../../src/eval/compression/codecs.ts";
import { fromMosaic, mosaicGrid, mosaicOf } from "../../../src/eval/compression/mosaic.ts";
import { type CoderPoint, codeInOwnProcess } from "../../../src/eval/compression/own-process.ts";

const problems = await findCodecs();

/** Squares that move over a gradient, another place each clip. */
function squares(clips: number, frames: number, side: number) {
  const data = new Uint8Array(clips * frames * side * side * 3);
  for (let t = 0, i = 0; t < clips * frames; t++) {
    const [scene, u] = [Math.floor(t / frames), t % frames];
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const inside =
          Math.abs(x - ((scene * 13 + 2 * u) % side)) < side / 5 &&
          Math.abs(y - ((scene * 7 + u) % side)) < side / 4;
        data[i++] = inside ? 220 : (2 * x + scene * 40) & 255;
        data[i++] = inside ? 40 : (3 * y) & 255;
        data[i++] = inside ? 60 : 128 + Math.round(60 * Math.sin((x + y) / 6));
      }
    }
  }
  return { data, frames: clips * frames, height: side, width: side };
}

describe("a mosaic", () => {
  it("holds every pixel once and gives the clips back", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 7 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 20, max: 140 }),
        fc.integer({ min: 20, max: 140 }),
        (clips, frames, height, width) => {
          const data = Uint8Array.from(
            { length: clips * frames * height * width * 3 },
            (_, i) => (i * 31 + (i >> 9)) % 127, // never grey
          );
          const given = { data, frames: clips * frames, height, width };
          const mosaic = mosaicOf(given, frames);
          expect(Math.min(mosaic.height, mosaic.width)).toBeGreaterThanOrEqual(128);
          expect(mosaic.data.length).toBe(mosaic.frames * mosaic.height * mosaic.width * 3);
          const { rows, columns } = mosaicGrid(height, width);
          expect(mosaic.frames).toBe(frames * Math.ceil(clips / (rows * columns)));
          expect(mosaic.data.filter((value) => value !== 128).length).toBe(data.length);
          const back = fromMosaic(mosaic.data, given, frames);
          expect(Buffer.compare(back, data)).toBe(0);
        },
      ),
      { numRuns: 20 },
    );
  });
});

describe.each(["x264", "x265"] as const)("%s", (name) => {
  it.skipIf(problems.get(name) !== undefined)(
    "gives equal bytes and pictures whatever the memory held before",
    async () => {
      // At 144 pixels x264 reads what it has not written: with other contents its files are 20 % larger.
      for (const clip of [mosaicOf(squares(9, 9, 48), 9), squares(1, 17, 144)]) {
        const runs: CoderPoint[][] = [];
        for (const junk of ["0", "1"]) {
          const before = process.env["MALLOC_PERTURB_"];
          process.env["MALLOC_PERTURB_"] = junk;
          const points: CoderPoint[] = [];
          try {
            await codeInOwnProcess({ name, clip, fps: 8, qualities: [27] }, (p) => void points.push(p)); // biome-ignore format: one call
          } finally {
            if (before === undefined) {
              delete process.env["MALLOC_PERTURB_"];
            } else {
              process.env["MALLOC_PERTURB_"] = before;
            }
          }
          runs.push(points);
        }
        const kept = runs.map((points) =>
          points.map(({ bytes, decoded }) => [
            bytes,
            createHash("sha256").update(decoded).digest("hex"),
          ]),
        );
        expect(kept[1]).toEqual(kept[0]);
        expect(runs[0]!.every(({ seconds, peakBytes }) => seconds > 0 && peakBytes > 1e7)).toBe(
          true,
        );
      }
    },
  );
});

describe("a codec's process", () => {
  const job = { name: "x264", clip: squares(1, 2, 16), fps: 8, qualities: [22, 37] } as const;
  const withProgram = async (text: string): Promise<unknown> => {
    const dir = mkdtempSync(join(tmpdir(), "tessera-coder-"));
    try {
      const program = join(dir, "program.mjs");
      writeFileSync(program, text);
      return await codeInOwnProcess(job, () => undefined, pathToFileURL(program));
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  };

  it("may crash, refuse or end early: told with its quality and last words", async () => {
    const answer = `process.send({ point: { quality: 22, bytes: 1, decoded: new Uint8Array(1), seconds: 1, peakBytes: 1 } }`;
    await expect(
      withProgram(
        `process.once("message", () => ${answer}, () => { console.error("corrupted size"); process.kill(process.pid, "SIGABRT"); }))`,
      ),
    ).rejects.toThrow(/ended by SIGABRT at quality 37, saying "corrupted size"/);
    await expect(withProgram(`process.once("message", () => process.exit(3))`)).rejects.toThrow(
      /ended with status 3 at quality 22/,
    );
    await expect(
      withProgram(
        `process.once("message", () => process.send({ error: "no such codec", hint: "leave it out" }, () => process.disconnect()))`,
      ),
    ).rejects.toThrow("no such codec (leave it out)");
  });

  it.skipIf(problems.get("x264") !== undefined)("ends when the caller has had enough", async () => {
    await expect(
      codeInOwnProcess(job, () => {
        throw new Error("stopped");
      }),
    ).rejects.toThrow("stopped");
  });
});
