/**
 * @file A run folder as a report needs it. Everything but the folder itself may be missing (a run
 * can be looked at while it trains, or after it failed), and a half-written last line is no error.
 */

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join, relative, sep } from "node:path";
import { UserError } from "../config/errors.ts";
import type { Score } from "../eval/suite.ts";

/** One line of metrics.jsonl. */
export interface MetricRow {
  readonly stage: string;
  readonly step: number;
  readonly split: string;
  readonly [metric: string]: unknown;
}

/** Any JSON object. */
export interface JsonObject {
  readonly [key: string]: unknown;
}

/** A file of samples/ with its path inside it, "/"-separated. */
export interface SampleFile {
  readonly path: string;
  readonly file: string;
  readonly bytes: number;
}

export interface RunRecord {
  readonly dir: string;
  /** Name of the experiment: the folder above. */
  readonly experiment: string;
  /** "<hash12>-s<seed>": the folder's own name. */
  readonly id: string;
  /** The frozen config, {} while it is not written. */
  readonly config: JsonObject;
  readonly configYaml: string;
  readonly status: JsonObject;
  readonly provenance: JsonObject;
  readonly metrics: readonly MetricRow[];
  readonly scores: readonly Score[];
  /** True when the scores are those of an evaluation that has not ended. */
  readonly partial: boolean;
  readonly samples: readonly SampleFile[];
}

/**
 * Read a run folder.
 * @throws UserError when `dir` is not one (it has no config.json and no config.yaml)
 */
export function readRun(dir: string): RunRecord {
  if (!existsSync(join(dir, "config.json")) && !existsSync(join(dir, "config.yaml"))) {
    throw new UserError(
      `${dir} is not a run folder: it holds neither config.json nor config.yaml`,
      "give the folder that `tessera run` printed, e.g. results/quickstart/<hash>-s0",
    );
  }
  const config = readJson(join(dir, "config.json"));
  const final = readScores(join(dir, "scores.json"));
  return {
    dir,
    experiment: typeof config["name"] === "string" ? config["name"] : basename(dirname(dir)),
    id: basename(dir),
    config,
    configYaml: readText(join(dir, "config.yaml")),
    status: readJson(join(dir, "status.json")),
    provenance: readJson(join(dir, "provenance.json")),
    metrics: readLines(join(dir, "metrics.jsonl")),
    scores: final ?? readScores(join(dir, "scores.partial.json")) ?? [],
    partial: final === undefined,
    samples: listFiles(join(dir, "samples")),
  };
}

/** The text of a file, "" when there is none. */
function readText(path: string): string {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

/** A JSON object from a file; {} when the file is missing or is not one. */
export function readJson(path: string): JsonObject {
  const value = parseJson(readText(path));
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as JsonObject)
    : {};
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

function readScores(path: string): Score[] | undefined {
  const { scores } = readJson(path);
  return Array.isArray(scores) ? (scores as Score[]) : undefined;
}

function readLines(path: string): MetricRow[] {
  return readText(path)
    .split("\n")
    .flatMap((line) => {
      const row = line.trim() ? parseJson(line) : undefined;
      return typeof row === "object" && row !== null && "step" in row ? [row as MetricRow] : [];
    });
}

/** All files under a folder, by their paths. */
export function listFiles(root: string): SampleFile[] {
  if (!existsSync(root)) {
    return [];
  }
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => {
      const file = join(entry.parentPath, entry.name);
      return {
        path: relative(root, file).split(sep).join("/"),
        file,
        bytes: statSync(file).size,
      };
    })
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}
