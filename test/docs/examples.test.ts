/** @file What the pages tell people to write is valid: their YAML files, and the overrides they type. */

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Ajv, type ValidateFunction } from "ajv";
import { afterAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { loadConfig } from "../../src/config/resolve.ts";
import { planSweep } from "../../src/sweeps/plan.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";

const pages = ["README.md", ...readdirSync("docs").map((name) => `docs/${name}`)].filter((path) =>
  path.endsWith(".md"),
);
const root = mkdtempSync(join(tmpdir(), "docs-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const load = (file: string, overrides: readonly string[] = []) =>
  loadConfig<Experiment>({ file, overrides, schema: experimentSchema, checks, env: {} });

const blocks = (page: string, language: string): string[] =>
  [...readFileSync(page, "utf8").matchAll(/^```(\w+)\n(.*?)^```$/gms)]
    .filter((match) => match[1] === language)
    .map((match) => match[2]!);

const named = (what: RegExp, not: RegExp) =>
  pages.flatMap((page) =>
    blocks(page, "yaml")
      .filter((text) => what.test(text) && !not.test(text))
      .map((text, i) => ({ name: `${page}, example ${i + 1}`, text })),
  );

/** Experiments: YAML that says what it extends or is complete. Sweeps name an experiment. */
const experiments = named(/^name:/m, /^experiment:/m);
const sweeps = named(/^experiment:/m, /^$^/);

/** The words of `tessera run FILE ...` and `show FILE ...`, wherever they stand. */
const commands = pages.flatMap((page) =>
  [...readFileSync(page, "utf8").matchAll(/npx tessera (?:run|show) (configs\/[^\n`|]*)/g)].map(
    (match) => ({ name: `${page}: ${match[1]!}`, words: match[1]!.split("#")[0]!.trim() }),
  ),
);

test.each(experiments)("$name is a valid experiment", ({ text }) => {
  const file = join(root, "experiments", "x.yaml");
  mkdirSync(join(root, "experiments"), { recursive: true });
  writeFileSync(file, text);
  expect(load(file).hash).toMatch(/^[0-9a-f]{64}$/);
});

test.each(sweeps)("$name is a valid sweep", ({ text }) => {
  const file = join(root, "sweep.yaml");
  writeFileSync(file, text);
  const { trials, base } = planSweep(file);
  expect(trials.length > 0 || base !== undefined).toBe(true); // a search asks for its trials later
});

test.each(readdirSync("configs/sweeps"))("configs/sweeps/%s is a valid sweep", (name) => {
  expect(planSweep(`configs/sweeps/${name}`)).toBeDefined();
});

test.each(commands)("$name", ({ words }) => {
  const [file = "", ...rest] = words.split(/ +/).map((word) => word.replaceAll("'", ""));
  const overrides = rest.filter((word) => !word.startsWith("-"));
  expect(load(file, overrides).hash).toMatch(/^[0-9a-f]{64}$/);
});

describe("the files in configs/ pass the schemas that editors use", () => {
  const ajv = new Ajv({ strict: false });
  const compiled = new Map<string, ValidateFunction>();
  const validatorOf = (group: string): ValidateFunction => {
    const text = readFileSync(`configs/schema/${group}.json`, "utf8");
    const validate = compiled.get(group) ?? ajv.compile(JSON.parse(text) as object);
    compiled.set(group, validate);
    return validate;
  };
  const groups = readdirSync("configs/schema").map((name) => name.replace(/\.json$/, ""));
  const files = groups.flatMap((group) => {
    const names = (() => {
      try {
        return readdirSync(`configs/${group}`);
      } catch {
        return []; // a group without presets
      }
    })();
    return names.filter((name) => name.endsWith(".yaml")).map((name) => ({ group, name }));
  });

  test.each(files)("$group/$name", ({ group, name }) => {
    const validate = validatorOf(group);
    validate(parse(readFileSync(`configs/${group}/${name}`, "utf8")));
    expect(validate.errors ?? []).toEqual([]);
  });
});
