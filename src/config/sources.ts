/**
 * @file Where config files are found and how one is read: paths relative to the file that names
 * them, `@name` in the folders of its group. Every file is read once.
 */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, extname, isAbsolute, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { nearest, type Problems, suggest } from "./problems.ts";
import { readYaml } from "./read.ts";
import type { ConfigNode, MapNode, Origin } from "./tree.ts";

/** The configs/ folder that comes with this package; src/ and dist/ lie equally deep. */
export const packageConfigs = fileURLToPath(new URL("../../configs", import.meta.url));

const suffixes = ["", ".yaml", ".yml"];

/** The path as the user would type it from the current folder. */
export function displayed(path: string): string {
  const near = relative(process.cwd(), path);
  return near === "" || near.startsWith("..") || isAbsolute(near) ? path : near;
}

function firstExisting(base: string): string | undefined {
  return suffixes.map((suffix) => base + suffix).find((path) => extname(path) && existsSync(path));
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => /\.ya?ml$/.test(name))
      .map((name) => name.replaceAll("\\", "/").replace(/\.ya?ml$/, ""));
  } catch {
    return [];
  }
}

/** The configs/ folders of a group, nearest first; a name is looked up in this order. */
function foldersOf(group: string, dirs: readonly string[]): string[] {
  const roots = [...dirs, "configs", packageConfigs].map((dir) => resolve(dir, group));
  return [...new Set(roots)];
}

/**
 * The names that `@` may be followed by in a group.
 * @param dirs configs/ folders besides ./configs and the package's own
 */
export function componentNames(group: string, dirs: readonly string[] = []): string[] {
  return [...new Set(foldersOf(group, dirs).flatMap(namesIn))].sort();
}

/** The files of one resolution. */
export class Sources {
  readonly #read = new Map<string, MapNode | undefined>();
  /** False once a file's structure could not be read: what follows from it says nothing. */
  sound = true;

  /**
   * @param dirs configs/ folders to search before ./configs and the package's own, but after the one
   *   that the naming file is in
   */
  constructor(
    readonly problems: Problems,
    readonly dirs: readonly string[],
  ) {}

  /** The folders to search, seen from a file: those beside it come first. */
  #dirs(from: string | undefined): string[] {
    return from === undefined ? [...this.dirs] : [join(dirname(from), ".."), ...this.dirs];
  }

  /**
   * The file that `@name` or a relative path means; complains at `origin` where there is none.
   * @param from the file that names it; undefined: the command line
   */
  find(
    reference: string,
    group: string,
    from: string | undefined,
    origin: Origin,
    path: string,
  ): string | undefined {
    if (reference.startsWith("@")) {
      const name = reference.slice(1);
      for (const folder of foldersOf(group, this.#dirs(from))) {
        const found = name === "" ? undefined : firstExisting(join(folder, name));
        if (found) {
          return found;
        }
      }
      const hint = suggest(name, componentNames(group, this.#dirs(from)), `configs/${group} has`);
      const message = `no file for "${reference}" in configs/${group}`;
      this.problems.add({ code: "component", path, origin, message, hint });
      return undefined;
    }
    const base = resolve(from === undefined ? "." : dirname(from), reference);
    const found = firstExisting(base);
    if (!found) {
      const near = nearest(
        reference.replace(/^.*\//, "").replace(/\.ya?ml$/, ""),
        namesIn(dirname(base)),
      );
      this.problems.add({
        code: "extends",
        path,
        origin,
        message: `no file ${displayed(base)}`,
        ...(near === undefined ? {} : { hint: `did you mean "${near}"?` }),
      });
    }
    return found;
  }

  /**
   * Read a file once.
   * @param origin where it is named, for the complaint that it cannot be read
   * @returns undefined after a complaint
   */
  read(file: string, origin: Origin): MapNode | undefined {
    if (this.#read.has(file)) {
      return this.#read.get(file);
    }
    const node = this.#parse(file, origin);
    this.#read.set(file, node);
    return node;
  }

  #parse(file: string, origin: Origin): MapNode | undefined {
    const name = displayed(file);
    let text: string;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(file));
    } catch (error) {
      const message =
        error instanceof TypeError
          ? `${name} is not UTF-8 text`
          : `cannot read ${name}: ${(error as Error).message}`;
      this.problems.add({ code: "file", path: "", origin, message });
      this.sound = false;
      return undefined;
    }
    this.problems.file(name);
    const start: Origin = { kind: "file", file: name, line: 1, col: 1 };
    const { node, sound } = readYaml(
      text,
      (line, col) => ({ kind: "file", file: name, line, col }),
      this.problems,
    );
    this.sound &&= sound;
    return sound
      ? this.#map(node ?? { kind: "map", origin: start, entries: new Map() })
      : undefined;
  }

  #map(node: ConfigNode): MapNode | undefined {
    if (node.kind === "map") {
      return node;
    }
    const message = "a config file must be a map of keys";
    this.problems.add({ code: "syntax", path: "", origin: node.origin, message });
    this.sound = false;
    return undefined;
  }
}
