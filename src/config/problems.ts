/**
 * @file Problems of a config: gathered while it is read, sorted by place, thrown together. One
 * mistake should cost the user one round, and five mistakes too.
 */

import { distance } from "fastest-levenshtein";
import { UserError } from "./errors.ts";
import type { Origin } from "./tree.ts";

export type ProblemCode =
  /** The file cannot be read, or is not YAML. */
  | "file"
  | "syntax"
  /** `extends` or `@name` names nothing, or itself. */
  | "extends"
  | "component"
  | "cycle"
  /** An override that cannot be read or applied. */
  | "override"
  /** `${...}` that leads nowhere. */
  | "reference"
  /** `???` left in place, or a required key that is not there. */
  | "missing"
  | "unknown-key"
  /** A value that its schema does not admit. */
  | "value"
  /** A value that does not agree with another one. */
  | "check";

export interface Problem {
  readonly code: ProblemCode;
  /** Dotted path from the root; empty for the whole config. */
  readonly path: string;
  readonly origin: Origin;
  /** What was expected and what came. */
  readonly message: string;
  /** What to do. */
  readonly hint?: string;
}

/** The place of an origin as `file:line:col`, or its like. */
export function formatOrigin(origin: Origin): string {
  switch (origin.kind) {
    case "file":
      return `${origin.file}:${origin.line}:${origin.col}`;
    case "override":
      return `override ${origin.index}:${origin.col} (${origin.text})`;
    case "set":
      return `set ${origin.path}`;
    case "env":
      return `env ${origin.name}`;
    case "default":
      return "default";
  }
}

function place(origin: Origin): string {
  return origin.kind === "env"
    ? `${place(origin.at)}, from the environment variable ${origin.name}`
    : formatOrigin(origin);
}

/** All that is wrong with a config. `message` lists the problems, each with its place and its hint. */
export class ConfigErrors extends UserError {
  override name = "ConfigErrors";

  constructor(readonly problems: readonly Problem[]) {
    const lines = problems.map(({ origin, path, message, hint }) => {
      const line = `${place(origin)}  ${path === "" ? "" : `${path}: `}${message}`;
      return hint === undefined ? line : `${line}\n    ${hint}`;
    });
    super(
      problems.length === 1
        ? (lines[0] as string)
        : `${problems.length} problems in the config\n${lines.map((line) => `  ${line.replaceAll("\n", "\n  ")}`).join("\n")}`,
    );
  }
}

/** Collects problems; knows the order in which files were read, by which they are sorted. */
export class Problems {
  readonly #found: Problem[] = [];
  readonly #files: string[] = [];

  get size(): number {
    return this.#found.length;
  }

  get all(): readonly Problem[] {
    return this.#found;
  }

  /** Tell of a file, by the name its origins carry. */
  file(name: string): void {
    if (!this.#files.includes(name)) {
      this.#files.push(name);
    }
  }

  add(problem: Problem): void {
    // The same file may be read under several parents; its faults are told once.
    const key = (p: Problem) => `${place(p.origin)} ${p.message}`;
    if (!this.#found.some((other) => key(other) === key(problem))) {
      this.#found.push(problem);
    }
  }

  #rank(origin: Origin): readonly [number, number, number, number] {
    switch (origin.kind) {
      case "file":
        return [0, this.#files.indexOf(origin.file), origin.line, origin.col];
      case "override":
        return [1, origin.index, 0, origin.col];
      case "set":
        return [2, 0, 0, 0];
      case "env":
        return this.#rank(origin.at);
      case "default":
        return [3, 0, 0, 0];
    }
  }

  sorted(): readonly Problem[] {
    return [...this.#found].sort((a, b) => {
      const [left, right] = [this.#rank(a.origin), this.#rank(b.origin)];
      const different = left.findIndex((value, i) => value !== right[i]);
      return different < 0 ? 0 : (left[different] as number) - (right[different] as number);
    });
  }

  /** @throws ConfigErrors if there is any problem */
  throwIfAny(): void {
    if (this.size > 0) {
      throw new ConfigErrors(this.sorted());
    }
  }
}

/** The choice that a mistyped word most likely meant, if one is near enough. */
export function nearest(word: string, choices: readonly string[]): string | undefined {
  let best: string | undefined;
  // A word of which nothing is kept is no typing mistake; two swapped letters count as two edits.
  let least = (word.length <= 3 ? 1 : Math.max(2, Math.floor(word.length / 3))) + 1;
  for (const choice of choices) {
    const d = distance(word.toLowerCase(), choice.toLowerCase());
    if (d < least && d < word.length) {
      least = d;
      best = choice;
    }
  }
  return best;
}

/** A hint for a word that is none of the choices: the nearest one, and what there is. */
export function suggest(word: string, choices: readonly string[], what: string): string {
  const near = nearest(word, choices);
  const list = [...choices].sort().join(", ");
  return `${near === undefined ? "" : `did you mean "${near}"? `}${what}: ${list === "" ? "none" : list}`;
}
