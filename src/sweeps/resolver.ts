/**
 * @file Resolved configs of many points, quickly. Most points differ in plain values of keys that
 * are there already; for these the base is resolved once and the value put in its place, which gives
 * the same config as resolving the whole again. What chooses components, adds or removes keys, or
 * may be referred to by others (`${...}`) goes the long way, once for each distinct choice.
 */

import { configHash, type PartTexts } from "../config/hash.ts";
import { staysValid } from "../config/judge.ts";
import { type Check, type CheckProblem, loadConfig, type Resolved } from "../config/resolve.ts";
import type { TSchema } from "../config/schema.ts";
import { UserError } from "../config/errors.ts";
import { fromJson, type Json, parsePath, printPath } from "../config/tree.ts";
import { validate } from "../config/validate.ts";
import type { JsonSchema } from "../config/walk.ts";
import type { Point } from "./points.ts";

export interface ResolverOptions<T> {
  readonly file: string;
  readonly overrides: readonly string[];
  readonly schema: TSchema;
  readonly checks: readonly Check<T>[];
}

/** What a trial needs of its config. */
export interface Frozen<T> {
  readonly config: T;
  readonly hash: string;
}

type Plain = { [key: string]: Json };

/** Resolves points of one base experiment. */
export class PointResolver<T> {
  readonly #options: ResolverOptions<T>;
  /** Points share what they do not change. */
  readonly #texts: PartTexts = new WeakMap();
  readonly #bases = new Map<string, { base: Resolved<T>; hasReferences: boolean }>();

  constructor(options: ResolverOptions<T>) {
    this.#options = options;
  }

  /**
   * The config of a point; `check` says whether its values agree with each other.
   * @throws UserError naming the point when a key or a value is not valid
   */
  resolve(point: Point): Frozen<T> {
    const slow: Plain = {};
    const quick: [readonly string[], Json][] = [];
    const plain = this.#base({}, []);
    const entries = Object.entries(point.set);
    // A component goes before the keys inside of it, whatever the order of the axes.
    const ordered = entries.toSorted(([a], [b]) => depth(a) - depth(b));
    for (const [key, value] of ordered) {
      const path = parsePath(key);
      const simple =
        path !== undefined &&
        path.at(-1) !== "type" &&
        !plain.hasReferences &&
        (typeof value === "number" || typeof value === "boolean" || isPlainText(value));
      if (simple) {
        quick.push([path, value]);
      } else {
        slow[key] = value;
      }
    }
    let { base } = this.#base(slow, point.overrides);
    const absent = quick.filter(([path]) => !isScalarAt(base.config as Json, path));
    if (absent.length > 0) {
      const keys = new Set([...Object.keys(slow), ...absent.map(([path]) => printPath(path))]);
      const longer = ordered.filter(([key]) => keys.has(printPath(parsePath(key) ?? [key])));
      ({ base } = this.#base(Object.fromEntries(longer), point.overrides));
    }
    const rest = quick.filter((change) => !absent.includes(change));
    return rest.length === 0 ? base : this.#patched(base, rest, point);
  }

  /** Values of a point that do not agree with each other are errors. */
  check(config: T, point: Point): void {
    const problems = this.#options.checks.flatMap((check) => check(config));
    if (problems.length > 0) {
      throw invalid(point, problems);
    }
  }

  #base(set: Plain, overrides: readonly string[]): { base: Resolved<T>; hasReferences: boolean } {
    const key = JSON.stringify([set, overrides]);
    const known = this.#bases.get(key);
    if (known) {
      return known;
    }
    const options = this.#options;
    const base = loadConfig<T>({
      file: options.file,
      overrides: [...options.overrides, ...overrides],
      schema: options.schema,
      set,
    });
    const hasReferences = Object.values(base.origins).some(
      (origin) => "reference" in origin && origin.reference !== undefined,
    );
    const entry = { base, hasReferences };
    this.#bases.set(key, entry);
    return entry;
  }

  #patched(base: Resolved<T>, changes: [readonly string[], Json][], point: Point): Frozen<T> {
    let config = base.config as Json;
    for (const [path, value] of changes) {
      config = withValue(config, path, value);
    }
    const schema = this.#options.schema;
    const valid = changes.every(([path]) => staysValid(config, path, schema as JsonSchema));
    if (!valid) {
      const root = fromJson(config, { kind: "set", path: "" });
      throw invalid(
        point,
        validate(root, schema as JsonSchema).map(({ problem }) => problem),
      );
    }
    return { config: config as T, hash: configHash(config, schema, undefined, this.#texts) };
  }
}

function invalid(point: Point, problems: readonly CheckProblem[]): UserError {
  const lines = problems.map(
    ({ path, message, hint }) => `  ${path}: ${message}${hint ? `\n      ${hint}` : ""}`,
  );
  return new UserError(
    `the point ${pointName(point)} is not valid:\n${lines.join("\n")}`,
    "leave it out with `exclude` or `where`, or change the axis",
  );
}

/** A point's place on its axes in one line. */
export function pointName({ labels }: Pick<Point, "labels">): string {
  const names = Object.entries(labels).map(([axis, text]) => `${axis}=${text}`);
  return names.length > 0 ? names.join(" ") : "base";
}

const depth = (key: string): number => parsePath(key)?.length ?? 1;

const isPlainText = (value: Json): boolean =>
  typeof value === "string" && !value.startsWith("@") && !value.includes("${") && value !== "???";

/** Is there a value that is neither map nor list nor null? */
function isScalarAt(config: Json, path: readonly string[]): boolean {
  let node: Json | undefined = config;
  for (const key of path) {
    if (typeof node !== "object" || node === null || Array.isArray(node)) {
      return false;
    }
    node = Object.hasOwn(node, key) ? (node as Plain)[key] : undefined;
    if (node === undefined) {
      return false;
    }
  }
  return node !== null && typeof node !== "object";
}

/** A copy with one value changed; what is not on the way is shared. */
function withValue(config: Json, [key, ...rest]: readonly string[], value: Json): Json {
  const map = config as Plain;
  return { ...map, [key!]: rest.length === 0 ? value : withValue(map[key!]!, rest, value) };
}
