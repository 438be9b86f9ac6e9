/** @file Byte-level BPE: exact round trips, learning, and Hugging Face's file format. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  byteCharacters,
  openBpe,
  readTokenizerJson,
  trainBpe,
} from "../../src/tokenizers/text/bpe.ts";

const captions = [
  "a red circle moves left over a plain background",
  "a red square moves right over a plain background",
  "a large green circle spirals over a striped background",
  "a small red circle bounces, then moves left",
];

describe("byte-level BPE", () => {
  const bpe = openBpe(trainBpe(captions, 320, ["<eos>", "<pad>"]));

  it("brings any text back, whatever it was learned from", () => {
    const text = fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom(...captions), fc.string());
    fc.assert(
      fc.property(text, (value) => {
        const ids = bpe.encode(value);
        expect(bpe.decode(ids)).toBe(value);
        expect(ids.every((id) => id >= 0 && id < bpe.size)).toBe(true);
      }),
    );
    expect(bpe.decode(bpe.encode("naïve 漢字 🙂\n\t x"))).toBe("naïve 漢字 🙂\n\t x");
  });

  it("learns frequent words as single tokens, the most frequent pair first", () => {
    const { merges, tokens } = bpe.vocabulary;
    expect(tokens.slice(0, 2)).toEqual(["<eos>", "<pad>"]);
    expect(tokens.length).toBeLessThanOrEqual(320);
    expect(bpe.encode(" circle")).toHaveLength(1);
    expect(bpe.encode(captions[0]!).length).toBeLessThan(captions[0]!.length / 3);
    // "ab" occurs three times, "bc" twice.
    expect(trainBpe(["ab ab abc bc"], 257).merges).toEqual([["a", "b"]]);
    expect(merges.length).toBe(tokens.length - 258);
    expect(trainBpe(captions, 300)).toEqual(trainBpe(captions, 300));
  });

  it("keeps special tokens whole", () => {
    const ids = bpe.encode("a red circle<eos><pad>");
    expect(Array.from(ids).slice(-2)).toEqual([0, 1]);
    expect(bpe.decode(ids)).toBe("a red circle<eos><pad>");
  });

  it("reads tokenizer.json, with merges in either form", () => {
    const { tokens, merges, special } = trainBpe(captions, 300, ["<eos>"]);
    const vocab = Object.fromEntries(
      tokens.map((token, id) => [token, id]).filter(([, id]) => id !== 0),
    );
    const file = (form: unknown[]) =>
      JSON.stringify({
        added_tokens: [{ id: 0, content: "<eos>", special: true }],
        pre_tokenizer: { type: "ByteLevel", add_prefix_space: false },
        model: { type: "BPE", vocab, merges: form },
      });
    for (const form of [merges.map((pair) => pair.join(" ")), [...merges]]) {
      expect(readTokenizerJson(file(form), "t.json")).toEqual({ tokens, merges, special });
    }
    expect(() => readTokenizerJson("{", "t.json")).toThrow(/not JSON/);
    expect(() => readTokenizerJson('{"model":{"type":"Unigram","vocab":{}}}', "t")).toThrow(
      /Unigram/,
    );
  });

  it("writes bytes as GPT-2 does", () => {
    const characters = byteCharacters();
    expect(new Set(characters).size).toBe(256);
    expect(characters[32]).toBe("Ġ");
    expect(characters[10]).toBe("Ċ");
    expect(characters[65]).toBe("A");
  });
});
