/**
 * @file Verdicts: does a value of ours reproduce a published one, does a claim hold in a study of ours.
 * A claim holds when all of its tests hold, fails when one fails, and is undecided otherwise (judge.ts).
 */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { SweepFolder, sweepFolder } from "../../sweeps/folder.ts";
import type { ComparedRun } from "../compare/runs.ts";
import { findRuns } from "../compare/runs.ts";
import { allStudies, committedRuns } from "../studies/evidence.ts";
import type { Claim, Entry } from "./schema.ts";
import { judgeTest, type TestResult } from "./judge.ts";

export interface Verdict {
  readonly verdict: "reproduced" | "not reproduced" | "holds" | "fails" | "undecided" | "not run";
  /** Our value, or the comparisons, in words. */
  readonly ours: readonly string[];
  /** What to do, or what is missing. */
  readonly missing?: string;
  /** A claim's tests, one by one. */
  readonly tests?: readonly TestResult[];
}

/** Judge a published number. */
export function judgeEntry(entry: Entry): Verdict {
  const { ours, published, tolerance } = entry;
  if (ours === undefined) {
    return { verdict: "not run", ours: [], missing: `needs ${entry.needs.join("; ")}` };
  }
  const path = join(ours.run, "scores.json");
  if (!existsSync(path)) {
    return { verdict: "not run", ours: [], missing: `${path} is not here` };
  }
  const { scores } = JSON.parse(readFileSync(path, "utf8")) as {
    scores: { name: string; value: number; protocol: { name: string } }[];
  };
  const score = scores.find(({ name }) => name === ours.score);
  if (score === undefined || score.protocol.name !== ours.protocol) {
    const found = score ? `it was measured under ${score.protocol.name}` : "it has no such score";
    return { verdict: "not run", ours: [], missing: `${found}, expected ${ours.protocol}` };
  }
  const close = Math.abs(score.value - published) <= tolerance;
  return { verdict: close ? "reproduced" : "not reproduced", ours: [String(score.value)] };
}

/** Trials that claims are judged on, and where they are from. */
export interface ClaimRuns {
  readonly runs: readonly ComparedRun[];
  readonly from: string;
}

/**
 * The trials of a claim's sweep: those of the sweep's own folder when all have finished, else what a
 * committed study has, else what the folder has so far.
 */
export function claimRuns(
  sweep: string,
  output = "results",
  studies = allStudies(),
): ClaimRuns | undefined {
  const folder = sweepFolder(sweep, output);
  const own = existsSync(join(folder, "sweep.json"))
    ? { runs: findRuns([SweepFolder.open(folder).dir], output).runs, from: folder }
    : undefined;
  return own?.runs.every(({ state }) => state === "finished")
    ? own
    : (committedRuns(sweep, studies) ?? own);
}

/** The file of a claim's sweep. */
export const sweepFileOf = ({ sweep, file }: Claim): string =>
  file ?? `configs/sweeps/${sweep}.yaml`;

/** Judge a claim by trials of ours. */
export function judgeClaim(claim: Claim, study: ClaimRuns | undefined): Verdict {
  if (study === undefined) {
    return {
      verdict: "not run",
      ours: [],
      missing: `run it: tessera sweep ${sweepFileOf(claim)}`,
    };
  }
  const results = claim.tests.map((test) => judgeTest(test, study.runs));
  const missing = results.find(({ verdict }) => verdict === "not run");
  const unfinished = study.runs.filter(({ state }) => state !== "finished").length;
  return {
    verdict: missing
      ? "not run"
      : results.some(({ verdict }) => verdict === "fails")
        ? "fails"
        : results.every(({ verdict }) => verdict === "holds")
          ? "holds"
          : "undecided",
    ours: [
      ...results
        .filter(({ verdict }) => verdict !== "not run")
        .map(({ verdict, text }) => `${text}: ${verdict}`),
      ...(unfinished > 0 ? [`${unfinished} of ${study.runs.length} trials have no scores`] : []),
    ],
    ...(missing && { missing: `${study.from} lacks ${missing.text}` }),
    tests: results,
  };
}
