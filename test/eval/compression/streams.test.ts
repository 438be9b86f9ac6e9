import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Bitstream,
  idsChecksum,
  readBitstream,
  writeBitstream,
} from "../../../src/eval/compression/bitstream.ts";
import { cutSpan, joinSpan, tilingOf } from "../../../src/eval/compression/tiling.ts";
import {
  type CodeContext,
  codeNames,
  decodeTokens,
  digitSizes,
  encodeTokens,
} from "../../../src/eval/compression/token-codes.ts";
import type { TokenPrior } from "../../../src/objectives/prior.ts";
import { Random } from "../../../src/runtime/random.ts";

/** A prior that knows the truth: each sub-id is likely to be the one before it plus one. */
function successorPrior(tokens: number, factors: readonly number[]): TokenPrior {
  return {
    type: "test",
    version: "1",
    async *groups(ids) {
      for (let place = 0; place < tokens; place++) {
        yield {
          places: [place],
          logits: (b, p, f) => {
            const logits = new Float32Array(factors[f]!);
            const before = p === 0 ? -1 : ids[(b * tokens + p - 1) * factors.length + f]!;
            logits[(before + 1) % factors[f]!] = 8;
            return logits;
          },
        };
      }
    },
  };
}

const context = (tokens: number, factors: number[], batch = 2, period = 1): CodeContext => ({
  factors,
  tokens,
  period,
  prior: { model: successorPrior(tokens, factors), batch },
});

describe.each(codeNames)("code %s", (name) => {
  it("gives back any tokens", async () => {
    const cases = fc.record({
      factors: fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 3 }),
      tokens: fc.integer({ min: 1, max: 9 }),
      clips: fc.integer({ min: 0, max: 5 }),
      seed: fc.nat(),
      period: fc.integer({ min: 1, max: 4 }),
    });
    await fc.assert(
      fc.asyncProperty(cases, async ({ factors, tokens, clips, seed, period }) => {
        const random = new Random(seed, "ids");
        const ids = Int32Array.from({ length: clips * tokens * factors.length }, (_, i) =>
          random.int(factors[i % factors.length]!),
        );
        const both = context(tokens, factors, 2, period);
        const bytes = await encodeTokens(name, ids, both);
        expect(await decodeTokens(name, bytes, clips, both)).toEqual(ids);
      }),
      { numRuns: 40 },
    );
  });

  it("never gives tokens outside of the vocabulary for damaged bytes", async () => {
    const factors = [7, 300];
    const ids = Int32Array.from({ length: 64 }, (_, i) => (i * 13) % (i % 2 ? 300 : 7));
    const bytes = await encodeTokens(name, ids, context(8, factors));
    await fc.assert(
      fc.asyncProperty(
        fc.nat(bytes.length - 1),
        fc.integer({ min: 1, max: 255 }),
        async (at, x) => {
          const changed = bytes.slice();
          changed[at]! ^= x;
          const got = await decodeTokens(name, changed, 4, context(8, factors)).catch(
            (error: unknown) => String(error),
          );
          const sound =
            typeof got === "string"
              ? /damaged|end/.test(got)
              : got.every((id, i) => id >= 0 && id < factors[i % 2]!);
          expect(sound).toBe(true);
        },
      ),
    );
  });
});

it("spends what the models promise", async () => {
  const [tokens, clips] = [64, 8];
  const random = new Random(1, "skewed");
  const skewed = Int32Array.from({ length: tokens * clips }, () =>
    Math.floor(1024 * random.uniform() ** 8),
  );
  const size = async (name: (typeof codeNames)[number], ids: Int32Array) =>
    (await encodeTokens(name, ids, context(tokens, [1024], 8))).length;
  expect(await size("uniform", skewed)).toBeLessThanOrEqual((tokens * clips * 10) / 8 + 1);
  expect(await size("uniform", skewed)).toBeGreaterThanOrEqual((tokens * clips * 10) / 8 - 1);
  expect(await size("adaptive", skewed)).toBeLessThan(0.8 * (await size("uniform", skewed)));
  // Under a transformer that is wrong about everything, the mixture falls back on frequencies.
  expect(await size("prior", skewed)).toBeLessThan(1.1 * (await size("adaptive", skewed)));
  // And what stands still from span to span costs next to nothing.
  const still = skewed.map((_, i) => skewed[i % tokens]!);
  expect(await size("prior", still)).toBeLessThan(0.4 * (await size("adaptive", still)));
  const successive = skewed.map((_, i) => (i % tokens) + 5);
  // A token that the model expects with p = e^8 / (e^8 + 1023) costs 0.42 bits; learning that the
  // model is to be trusted, and the first token of each clip, cost some more.
  expect((await size("prior", successive)) * 8).toBeLessThan(clips * (tokens * 0.5 + 25));
});

it("codes vocabularies of 2^30 in digits", async () => {
  expect(digitSizes(2 ** 30)).toEqual([2 ** 14, 2 ** 16]);
  const ids = Int32Array.of(0, 2 ** 30 - 1, 123_456_789);
  for (const name of ["uniform", "static", "adaptive"] as const) {
    const wide = { factors: [2 ** 30], tokens: 3 };
    expect(await decodeTokens(name, await encodeTokens(name, ids, wide), 1, wide)).toEqual(ids);
  }
});

describe("bitstream", () => {
  const stream: Bitstream = {
    code: "prior",
    tokenizer: "0123456789abcdef",
    prior: "fedcba9876543210",
    frames: 100,
    height: 360,
    width: 640,
    fps: Math.fround(29.97),
    idsChecksum: idsChecksum(Int32Array.of(1, 2, 3)),
    payload: Uint8Array.of(1, 2, 3, 4, 5),
  };

  it("comes back as it was, with a header of about 40 bytes", () => {
    const bytes = writeBitstream(stream);
    expect(readBitstream(bytes, "a.tsrv")).toEqual(stream);
    expect(readBitstream(Buffer.from(bytes), "a.tsrv").fps).toBe(stream.fps); // as files are read
    expect(bytes.length - stream.payload.length).toBeLessThan(45);
  });

  it("may be long: nothing grows with the call stack", async () => {
    const tokens = 150_000;
    const random = new Random(3, "long");
    const ids = Int32Array.from(random.uniforms(tokens), (u) => Math.floor(u * 65_000));
    const given = { ...context(tokens, [65_000], 1), prior: undefined } as unknown as CodeContext;
    for (const code of ["uniform", "static", "adaptive"] as const) {
      const payload = await encodeTokens(code, ids, given);
      expect(payload.length).toBeGreaterThan(250_000);
      const file = writeBitstream({ ...stream, payload });
      const back = await decodeTokens(code, readBitstream(file, "long.tsrv").payload, 1, given);
      expect(Buffer.compare(Buffer.from(back.buffer), Buffer.from(ids.buffer))).toBe(0);
    }
  });

  it("says so when any byte is changed or missing", () => {
    const bytes = writeBitstream(stream);
    for (let at = 0; at < bytes.length; at++) {
      const changed = bytes.slice();
      changed[at]! ^= 0x10;
      expect(() => readBitstream(changed, "a.tsrv")).toThrow(/a\.tsrv/);
      expect(() => readBitstream(bytes.subarray(0, at), "a.tsrv")).toThrow(/a\.tsrv/);
    }
  });

  it("survives arbitrary bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        expect(() => readBitstream(Uint8Array.of(84, 83, 82, 86, 1, ...bytes), "f")).toThrow("f");
      }),
    );
  });
});

describe("tiling", () => {
  it("gives back every video of every size", () => {
    const side = fc.integer({ min: 1, max: 7 });
    const shape = fc.record({ frames: side, height: side, width: side });
    fc.assert(
      fc.property(shape, shape, (video, clip) => {
        const frame = video.height * video.width * 3;
        const data = Uint8Array.from({ length: video.frames * frame }, (_, i) => (i * 37) % 251);
        const tiling = tilingOf(video, clip);
        const back: number[] = [];
        for (let s = 0; s < tiling.spans; s++) {
          const part = data.subarray(s * clip.frames * frame, (s + 1) * clip.frames * frame);
          back.push(...joinSpan(cutSpan(part, tiling), s, tiling));
        }
        expect(Uint8Array.from(back)).toEqual(data);
      }),
    );
  });

  it("repeats the edge", () => {
    const tiling = tilingOf({ frames: 1, height: 1, width: 2 }, { frames: 2, height: 2, width: 3 });
    const row = [1, 2, 3, 4, 5, 6, 4, 5, 6];
    expect([...cutSpan(Uint8Array.of(1, 2, 3, 4, 5, 6), tiling)]).toEqual([
      ...row, ...row, ...row, ...row,
    ]); // biome-ignore format: rows
  });
});
