/**
 * @file A study: what sweeps have found, as one compact file that is small enough to be committed
 * (`results/studies/NAME.json`). It holds every trial with its labels, seed, steps, scores, machine and
 * commit, and each protocol once; no weights, no curves, no paths of machines. Comparisons, verdicts and
 * the ledger read it in place of the run folders.
 */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "../../config/errors.ts";
import type { Protocol, Score } from "../../eval/suite.ts";
import { compare } from "../compare/comparison.ts";
import type { ComparedRun, Found } from "../compare/runs.ts";
import { type JsonObject, readJson } from "../run-folder.ts";

export const STUDIES = join("results", "studies");

/** A score under one protocol, as trials refer to it. */
interface StudyScore {
  readonly name: string;
  readonly unit?: string;
  readonly better: Score["better"];
  /** Key of `protocols`. */
  readonly protocol: string;
}

/** Value, count behind it, and its spread over clips or repeats where the score has one. */
type Measured = readonly [value: number, n: number, std?: number];

export interface StudyTrial {
  readonly run: string;
  readonly seed: number;
  readonly labels: { readonly [axis: string]: string };
  readonly state: string;
  /** Optimizer steps of its stages. */
  readonly steps?: { readonly tokenizer?: number; readonly transformer?: number };
  /** Of all its attempts. */
  readonly seconds?: number;
  /** Index into `machines`. */
  readonly machine?: number;
  /** By the keys of `scores`. */
  readonly scores: { readonly [key: string]: Measured };
}

export interface StudySweep {
  readonly name: string;
  readonly experiment: string;
  readonly baseline?: { readonly [key: string]: unknown };
  readonly trials: readonly StudyTrial[];
}

export interface Study {
  readonly format: 1;
  readonly study: string;
  readonly sweeps: readonly StudySweep[];
  /** What trials ran on, and which code: commit, device, processor, versions. */
  readonly machines: readonly JsonObject[];
  readonly scores: { readonly [key: string]: StudyScore };
  readonly protocols: { readonly [hash: string]: Protocol };
}

/** Put found runs into a study. A trial that was found in several places counts where it finished. */
export function studyOf(name: string, found: readonly Found[]): Study {
  const sweeps = new Map<
    string,
    { baseline?: Found["baseline"]; runs: Map<string, ComparedRun> }
  >();
  for (const { runs, baseline } of found) {
    for (const run of runs) {
      const key = run.sweep ?? run.experiment;
      const entry = sweeps.get(key) ?? { ...(baseline && { baseline }), runs: new Map() };
      sweeps.set(key, entry);
      if (entry.runs.get(run.id)?.state !== "finished") {
        entry.runs.set(run.id, run);
      }
    }
  }
  const every = [...sweeps.values()].flatMap(({ runs }) => [...runs.values()]);
  const machines = new Map<string, number>();
  const protocols: { [hash: string]: Protocol } = {};
  const scores: { [key: string]: StudyScore } = {};
  const keyOf = new Map<string, string>();
  for (const { key, name: score, unit, better, protocolHash } of compare({ runs: every }).columns) {
    scores[key] = { name: score, ...(unit && { unit }), better, protocol: protocolHash };
    keyOf.set(`${score} ${protocolHash}`, key);
  }
  for (const { protocol, protocolHash } of every.flatMap((run) => run.scores)) {
    protocols[protocolHash] ??= protocol;
  }
  const trialOf = (run: ComparedRun, labels: StudyTrial["labels"]): StudyTrial => {
    const machine = machineOf(run.dir);
    const text = JSON.stringify(machine);
    if (machine !== undefined && !machines.has(text)) {
      machines.set(text, machines.size);
    }
    const steps = stepsOf(run.config);
    return {
      run: run.id,
      seed: run.seed,
      labels,
      state: run.state,
      ...(steps && { steps }),
      ...(run.seconds !== undefined && { seconds: Math.round(run.seconds) }),
      ...(machine && { machine: machines.get(text)! }),
      scores: Object.fromEntries(
        run.scores
          .filter(({ value }) => Number.isFinite(value))
          .map(({ name: score, protocolHash, value, n, std }): [string, Measured] => [
            keyOf.get(`${score} ${protocolHash}`)!,
            std === undefined ? [value, n] : [value, n, std],
          ]),
      ),
    };
  };
  const parts = [...sweeps].map(([sweep, { runs, baseline }]): StudySweep => {
    const { groups } = compare({ runs: [...runs.values()] });
    return {
      name: sweep,
      experiment: groups[0]!.runs[0]!.experiment,
      ...(baseline && { baseline }),
      trials: groups.flatMap((group) => group.runs.map((run) => trialOf(run, group.labels))),
    };
  });
  return {
    format: 1,
    study: name,
    sweeps: parts,
    machines: [...machines.keys()].map((text) => JSON.parse(text) as JsonObject),
    scores,
    protocols,
  };
}

/** What made a run, of its provenance.json: nothing that names a person's machine or folders. */
function machineOf(dir: string): JsonObject | undefined {
  const provenance = readJson(join(dir, "provenance.json"));
  if (Object.keys(provenance).length === 0) {
    return undefined;
  }
  const git = (provenance["git"] ?? {}) as JsonObject;
  const kept = [
    "device",
    "driver",
    "engine",
    "cpu",
    "cores",
    "os",
    "node",
    "tessera",
    "lockfile_sha256",
  ];
  return {
    ...(git["commit"] !== undefined && { commit: git["commit"], dirty: git["dirty"] ?? false }),
    ...(git["diff_sha256"] !== undefined && { diff_sha256: git["diff_sha256"] }),
    ...Object.fromEntries(
      kept.filter((key) => provenance[key] !== undefined).map((key) => [key, provenance[key]]),
    ),
  };
}

function stepsOf(config: JsonObject): StudyTrial["steps"] {
  const trainer = (config["trainer"] ?? {}) as { [stage: string]: { steps?: number } | undefined };
  const tokenizer = trainer["tokenizer"]?.steps;
  const transformer = config["objective"] === undefined ? undefined : trainer["transformer"]?.steps;
  return tokenizer === undefined && transformer === undefined
    ? undefined
    : {
        ...(tokenizer !== undefined && { tokenizer }),
        ...(transformer !== undefined && { transformer }),
      };
}

/** A study's text: indented, but a line a trial, a score, a protocol, so that changes can be read. */
export function studyText({ format, study, sweeps, machines, scores, protocols }: Study): string {
  const line = (value: unknown): string => JSON.stringify(value);
  const list = (values: readonly unknown[], indent: string): string =>
    values.length === 0
      ? "[]"
      : `[\n${values.map((value) => `${indent}  ${line(value)}`).join(",\n")}\n${indent}]`;
  const record = (values: object): string =>
    `{\n${Object.entries(values)
      .map(([key, value]) => `    ${line(key)}: ${line(value)}`)
      .join(",\n")}\n  }`;
  const parts = sweeps.map(
    ({ trials, ...head }) => `    ${line(head).slice(0, -1)}, "trials": ${list(trials, "    ")}}`,
  );
  return `{
  "format": ${format},
  "study": ${line(study)},
  "machines": ${list(machines, "  ")},
  "scores": ${record(scores)},
  "protocols": ${record(protocols)},
  "sweeps": [
${parts.join(",\n")}
  ]
}
`;
}

/** Is this the path of a study's file? */
export const isStudyFile = (path: string): boolean => path.endsWith(".json") && existsSync(path);

/** Read a study. @throws UserError when the file is none */
export function readStudy(path: string): Study {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new UserError(`${path} cannot be read: ${(error as Error).message}`, "see tessera study");
  }
  const { format, sweeps } = (value ?? {}) as { format?: unknown; sweeps?: unknown };
  if (format !== 1 || !Array.isArray(sweeps)) {
    throw new UserError(`${path} is not a study`, "`tessera study SWEEP...` writes one");
  }
  return value as Study;
}

/** The runs of a study's sweep, or of all, as comparisons take them. */
export function studyRuns(study: Study, path: string, sweep?: string): Found {
  const parts = study.sweeps.filter(({ name }) => sweep === undefined || name === sweep);
  const runs = parts.flatMap(({ name, experiment, trials }) =>
    trials.map(
      ({ run, seed, labels, state, seconds, scores }): ComparedRun => ({
        dir: join(dirname(path), run),
        id: run,
        experiment,
        configuration: /^[0-9a-f]{12}/.exec(run)?.[0] ?? JSON.stringify(labels),
        seed,
        state,
        config: {},
        labels,
        sweep: name,
        ...(seconds !== undefined && { seconds }),
        scores: Object.entries(scores).map(([key, [value, n, std]]): Score => {
          const { protocol, ...score } = study.scores[key]!;
          return {
            ...score,
            value,
            n,
            ...(std !== undefined && { std }),
            protocol: study.protocols[protocol]!,
            protocolHash: protocol,
          };
        }),
      }),
    ),
  );
  const baseline = parts.length === 1 ? parts[0]!.baseline : undefined;
  return { runs, ...(baseline && { baseline }) };
}

/** The committed studies, by path. */
export function allStudies(dir = STUDIES): [path: string, study: Study][] {
  return existsSync(dir)
    ? readdirSync(dir)
        .filter((name) => name.endsWith(".json"))
        .sort()
        .map((name) => [join(dir, name), readStudy(join(dir, name))])
    : [];
}

/** The committed evidence of a sweep: its runs, and the study that has them. */
export function committedRuns(
  sweep: string,
  studies: readonly [path: string, study: Study][] = allStudies(),
): { readonly runs: readonly ComparedRun[]; readonly from: string } | undefined {
  const found = studies.find(([, { sweeps }]) => sweeps.some(({ name }) => name === sweep));
  return found && { runs: studyRuns(found[1], found[0], sweep).runs, from: found[0] };
}

/** A study's name, of its file. */
export const studyName = (path: string): string => basename(path, ".json");
