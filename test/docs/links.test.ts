/** @file The pages hold together: relative links, `npm run` scripts and `@names` that they show exist. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { componentNames } from "../../src/config/sources.ts";

const pages = [
  "README.md",
  "CONTRIBUTING.md",
  "CHANGELOG.md",
  "bench/README.md",
  ...readdirSync("docs")
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

/** A heading's anchor, as GitHub and most viewers make it. */
const anchor = (heading: string): string =>
  heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\- _]/gu, "")
    .replaceAll(" ", "-");

function anchorsOf(path: string): string[] {
  return [...readFileSync(path, "utf8").matchAll(/^#+ (.*)$/gm)].map((match) => anchor(match[1]!));
}

describe.each(pages)("%s", (page) => {
  const text = readFileSync(page, "utf8");

  test("links lead somewhere", () => {
    const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]!);
    const dead = links.filter((link) => {
      if (/^https?:/.test(link)) {
        return false;
      }
      const [file = "", part] = link.split("#");
      const path = file === "" ? page : join(dirname(page), file);
      return (
        !existsSync(path) ||
        (part !== undefined && path.endsWith(".md") && !anchorsOf(path).includes(part))
      );
    });
    expect(dead).toEqual([]);
  });

  test("scripts exist", () => {
    const { scripts } = JSON.parse(readFileSync("package.json", "utf8")) as { scripts: object };
    const named = [...text.matchAll(/npm run ([a-z][a-z:-]*)/g)].map((match) => match[1]!);
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });

  test("files of configs/ exist", () => {
    const named = [...text.matchAll(/configs\/[a-z]+\/[a-z0-9-]+\.(?:yaml|json)/g)];
    const paths = named.map((match) => match[0]).filter((path) => !path.includes("/my-"));
    expect(paths.filter((path) => !existsSync(path))).toEqual([]);
  });

  test("components that are selected by name exist", () => {
    const groups: { readonly [key: string]: string } = {
      dataset: "datasets",
      tokenizer: "tokenizers",
      model: "models",
      objective: "objectives",
      trainer: "trainers",
    };
    const named = [...text.matchAll(/\b([a-z]+)(?:=|: ")@([a-z0-9-]+)/g)];
    const unknown = named.filter(([, key = "", name = ""]) => {
      const group = groups[key];
      return (
        group !== undefined && !name.startsWith("my-") && !componentNames(group).includes(name)
      );
    });
    expect(unknown.map(([found]) => found)).toEqual([]);
  });
});
