/** @file Byte-level BPE: exact round trips, learning, and Hugging Face's file format. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { byteCharacters, openBpe, trainBpe } from "../../src/tokenizers/text/bpe.ts";
import { readTokenizerJson, toJavaScript } from "../../src/tokenizers/text/tokenizer-json.ts";
import { golden } from "./helpers.ts";

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
      const read = readTokenizerJson(file(form), "t.json");
      expect(read).toMatchObject({ tokens, merges, special });
      // Cut as GPT-2 does, it tokenizes as the vocabulary it was written from.
      for (const caption of [...captions, "It's  12 o'clock <eos>!"]) {
        expect(openBpe(read).encode(caption)).toEqual(openBpe({ tokens, merges, special }).encode(caption)); // biome-ignore format: one call
      }
    }
    expect(() => readTokenizerJson("{", "t.json")).toThrow(/not JSON/);
    expect(() => readTokenizerJson('{"model":{"type":"Unigram","vocab":{}}}', "t")).toThrow(
      /Unigram/,
    );
  });

  const hf = golden<{
    texts: string[];
    tokenizers: { name: string; file: object; ids: number[][]; decoded: string[] }[];
  }>("bpe_tokenizers.json");
  it.each(hf.tokenizers.map((one) => [one.name, one] as const))(
    "tokenizes as Hugging Face's library does: %s",
    (_, { file, ids, decoded }) => {
      const made = openBpe(readTokenizerJson(JSON.stringify(file), "tokenizer.json"));
      hf.texts.forEach((text, i) => {
        expect([...made.encode(text)]).toEqual(ids[i]);
        expect(made.decode(ids[i]!)).toBe(decoded[i]);
      });
    },
  );

  it("refuses files that cut texts in ways it does not know", () => {
    const { file } = hf.tokenizers[0]! as { file: { [key: string]: object } };
    const read = (changes: object) => readTokenizerJson(JSON.stringify({ ...file, ...changes }), "f.json"); // biome-ignore format: one call
    expect(() => read({ pre_tokenizer: { type: "Metaspace" } })).toThrow(/Metaspace/);
    expect(() => read({ pre_tokenizer: null })).toThrow(/pre-tokenizer/);
    expect(() => read({ normalizer: { type: "StripAccents" } })).toThrow(/StripAccents/);
    const suffix = { ...file["model"], end_of_word_suffix: "</w>" };
    expect(() => read({ model: suffix })).toThrow(/prefixes or suffixes/);
    const split = { type: "Split", pattern: { Regex: "\\p{N}{1,3}++" }, behavior: "Isolated" };
    const sequence = { type: "Sequence", pretokenizers: [split, { type: "ByteLevel" }] };
    expect(() => read({ pre_tokenizer: sequence })).toThrow(/does not translate/);
  });

  it("translates regular expressions of other engines", () => {
    const matches = (pattern: string, text: string) => text.match(new RegExp(toJavaScript(pattern), "gu")); // biome-ignore format: one call
    expect(matches("(?i:'s|'re)x", "'Sx 'RExq 'sX")).toEqual(["'Sx", "'REx"]);
    expect(matches("\\s+", "a\u0085b\ufeffc\u00a0")).toEqual(["\u0085", "\u00a0"]);
    expect(matches("[^\\s\\d]+", "ab 12\u0663c")).toEqual(["ab", "c"]);
    expect(matches("\\w+\\-\\'", "é_1-' x")).toEqual(["é_1-'"]);
  });

  it("writes bytes as GPT-2 does", () => {
    const characters = byteCharacters();
    expect(new Set(characters).size).toBe(256);
    expect(characters[32]).toBe("Ġ");
    expect(characters[10]).toBe("Ċ");
    expect(characters[65]).toBe("A");
  });
});
