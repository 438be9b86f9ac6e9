/**
 * @file From a YAML file and overrides to one frozen, validated, hashed config. The steps: read and
 * compose (`extends`, `@name`), apply overrides, fill defaults, resolve references, validate, check
 * values against each other. Problems of all steps are gathered and thrown together; nothing after
 * this reads YAML.
 */

import { dirname, join, resolve as resolvePath } from "node:path";
import { dropRemovals, type Layer, lay } from "./compose.ts";
import { fillDefaults } from "./defaults.ts";
import { canonicalJson, configHash } from "./hash.ts";
import { applyOverrides } from "./overrides.ts";
import { type Problem, Problems } from "./problems.ts";
import { readYaml } from "./read.ts";
import { type Environment, resolveReferences } from "./references.ts";
import type { TSchema } from "./schema.ts";
import { Sources } from "./sources.ts";
import {
  type ConfigNode,
  type Json,
  type Origin,
  type Path,
  parsePath,
  printPath,
  toJson,
} from "./tree.ts";
import { brokenPaths, isWithin, originOf, validate } from "./validate.ts";
import type { JsonSchema } from "./walk.ts";

/** What a cross-field check has to say about one value. */
export interface CheckProblem {
  /** Dotted path of the value to change. */
  readonly path: string;
  readonly message: string;
  readonly hint?: string;
}

/** Compares values with each other, e.g. a tokenizer's strides with the clip's size. */
export type Check<T> = (config: T) => readonly CheckProblem[];

export interface LoadOptions<T> {
  /** The experiment's file: a path, or `@name` of configs/experiments. */
  readonly file: string;
  /** Overrides as typed: `a.b=c`, `+a.b=c`, `~a.b`, `a=@name`. */
  readonly overrides?: readonly string[];
  /** The root schema. */
  readonly schema: TSchema;
  /** More configs/ folders, searched for `@name` before ./configs and the package's own. */
  readonly dirs?: readonly string[];
  /** What `${env:X}` reads; the process's environment by default. */
  readonly env?: Environment;
  readonly checks?: readonly Check<T>[];
  /** Values by dotted path, applied after the overrides; how a sweep sets its points. */
  readonly set?: { readonly [path: string]: Json };
  /** Dotted paths that the hash leaves out; `["seed"]` by default. */
  readonly unhashed?: readonly string[];
}

export interface Resolved<T> {
  /** Complete, valid and deeply frozen. */
  readonly config: T;
  /** Where each value comes from, by dotted path; maps and lists are listed too. */
  readonly origins: { readonly [path: string]: Origin };
  /** SHA-256 of the part that can change a result, 64 hexadecimal digits. */
  readonly hash: string;
  /** The complete config as RFC 8785 JSON: what config.json holds. */
  readonly canonical: string;
}

/** Freeze a JSON value all the way down. */
export function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const item of Object.values(value)) {
      deepFreeze(item);
    }
  }
  return value;
}

function originsOf(root: ConfigNode): { [path: string]: Origin } {
  const found: { [path: string]: Origin } = {};
  const walk = (node: ConfigNode, path: Path): void => {
    if (path.length > 0) {
      found[printPath(path)] = node.origin;
    }
    if (node.kind === "list") {
      for (const [i, item] of node.items.entries()) {
        walk(item, [...path, String(i)]);
      }
    } else if (node.kind === "map") {
      for (const [key, entry] of node.entries) {
        walk(entry.node, [...path, key]);
      }
    }
  };
  walk(root, []);
  return found;
}

/** Thrown out of a check that reads a value which is known to be wrong. */
class Unreadable extends Error {}

/**
 * The config as the checks may read it while parts of it are wrong: to touch a wrong part ends the
 * check, since what it would say could only mislead.
 */
function guarded(value: unknown, path: Path, bad: readonly Path[]): unknown {
  if (typeof value !== "object" || value === null || !bad.some((wrong) => isWithin(wrong, path))) {
    return value;
  }
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "symbol") {
        return Reflect.get(target, key) as unknown;
      }
      const here = [...path, key];
      if (bad.some((wrong) => isWithin(here, wrong))) {
        throw new Unreadable();
      }
      return guarded(Reflect.get(target, key), here, bad);
    },
  });
}

function runChecks<T>(
  checks: readonly Check<T>[],
  root: ConfigNode,
  bad: readonly Path[],
): Problem[] {
  if (bad.some((path) => path.length === 0)) {
    return [];
  }
  const config = guarded(toJson(root), [], bad) as T;
  return checks.flatMap((check) => {
    try {
      return check(config).map(({ path, message, hint }) => ({
        code: "check" as const,
        path,
        origin: originOf(root, parsePath(path) ?? []),
        message,
        ...(hint === undefined ? {} : { hint }),
      }));
    } catch (error) {
      // In a config with other faults a check may stumble over them; in a valid one it is a bug.
      if (bad.length > 0) {
        return [];
      }
      throw error;
    }
  });
}

/** Compose, override and resolve; everything but the verdict. */
function build<T>(
  options: LoadOptions<T>,
  problems: Problems,
): { root: ConfigNode; sound: boolean } {
  const schema = options.schema as JsonSchema;
  const { overrides = [], set = {}, dirs = [] } = options;
  const home = options.file.startsWith("@") ? [] : [join(dirname(resolvePath(options.file)), "..")];
  const sources = new Sources(problems, [...home, ...dirs]);
  const rootGroup = schema.group ?? "experiments";
  const start: Origin = { kind: "file", file: options.file, line: 1, col: 1 };
  const empty: ConfigNode = { kind: "map", origin: start, entries: new Map() };
  const file = sources.find(options.file, rootGroup, undefined, start, "");
  const tree = file === undefined ? undefined : sources.read(file, start);
  if (file === undefined || !tree) {
    return { root: empty, sound: false };
  }
  const layer: Layer = { sources, rootGroup, file, stack: [file] };
  const composed = lay(undefined, tree, schema, [], layer);
  const fromHere: Layer = { ...layer, file: undefined, stack: [] };
  const overridden = applyOverrides(composed, schema, overrides, set, fromHere);
  const complete = fillDefaults(dropRemovals(overridden, schema, [], sources), schema);
  if (!sources.sound) {
    return { root: complete, sound: false };
  }
  const resolved = resolveReferences(complete, schema, options.env ?? process.env, problems);
  // Once more, for components whose type or whose whole map came through a reference.
  return { root: fillDefaults(resolved, schema), sound: true };
}

function finish<T>(
  root: ConfigNode,
  schema: JsonSchema,
  checks: readonly Check<T>[],
  problems: Problems,
): void {
  const faults = validate(root, schema);
  for (const { problem } of faults) {
    problems.add(problem);
  }
  const bad = [...faults.map(({ path }) => path), ...brokenPaths(root)];
  for (const problem of runChecks(checks, root, bad)) {
    problems.add(problem);
  }
  problems.throwIfAny();
}

/**
 * Read, compose, override, resolve and validate a config.
 * @throws ConfigErrors with every problem found, each with its place, sorted by place
 */
export function loadConfig<T = unknown>(options: LoadOptions<T>): Resolved<T> {
  const problems = new Problems();
  const schema = options.schema as JsonSchema;
  const { root, sound } = build(options, problems);
  if (!sound) {
    problems.throwIfAny();
  }
  finish(root, schema, options.checks ?? [], problems);
  const config = deepFreeze(toJson(root)) as T;
  return {
    config,
    origins: originsOf(root),
    hash: configHash(config, options.schema, options.unhashed),
    canonical: canonicalJson(config),
  };
}

/**
 * Read a frozen config.json back, as a worker does: validated, nothing composed, filled or resolved.
 * @param text the file's content
 * @param file its name, for messages
 * @throws ConfigErrors if it is not a complete valid config, e.g. of another version
 */
export function validateFrozen<T = unknown>(text: string, schema: TSchema, file: string): T {
  const problems = new Problems();
  problems.file(file);
  const at = (line: number, col: number): Origin => ({ kind: "file", file, line, col });
  const { node, sound } = readYaml(text, at, problems);
  const root: ConfigNode = node ?? { kind: "map", origin: at(1, 1), entries: new Map() };
  if (!sound) {
    problems.throwIfAny();
  }
  finish<T>(root, schema as JsonSchema, [], problems);
  return deepFreeze(toJson(root)) as T;
}
