/** @file The page of dependencies lists what package.json has, and nothing else. */

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

interface Manifest {
  readonly dependencies: { readonly [name: string]: string };
  readonly devDependencies: { readonly [name: string]: string };
}

test("every dependency has its reason, under its heading", () => {
  const manifest = JSON.parse(readFileSync("package.json", "utf8")) as Manifest;
  const page = readFileSync("docs/dependencies.md", "utf8");
  const named = (heading: string): string[] => {
    const section = page.split(`\n## ${heading}\n`)[1]!.split("\n## ")[0]!;
    const cells = [...section.matchAll(/^\| (`[^|]*) \|/gm)].map((match) => match[1]!);
    return cells.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1]!));
  };
  expect(named("At run time").sort()).toEqual(Object.keys(manifest.dependencies).sort());
  expect(named("For development").sort()).toEqual(Object.keys(manifest.devDependencies).sort());
});
