/**
 * @file Verdicts: does a value of ours reproduce a published one, does a claim hold in a study of ours.
 * A claim holds when every one of its comparisons has an interval on the right side of its margin, fails
 * when one lies wholly on the wrong side, and is undecided otherwise.
 */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { bootstrapInterval, mean } from "../../eval/statistics/bootstrap.ts";
import { SweepFolder, sweepFolder } from "../../sweeps/folder.ts";
import type { ComparedRun } from "../compare/runs.ts";
import { findRuns } from "../compare/runs.ts";
import type { Claim, Entry } from "./schema.ts";
import { studyRuns } from "./study.ts";

export interface Verdict {
  readonly verdict: "reproduced" | "not reproduced" | "holds" | "fails" | "undecided" | "not run";
  /** Our value, or the comparisons, in words. */
  readonly ours: readonly string[];
  /** What to do, or what is missing. */
  readonly missing?: string;
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

/** The runs of a claim's study: the sweep's own folder, else the table that was committed. */
export function claimRuns(
  sweep: string,
): { runs: readonly ComparedRun[]; from: string } | undefined {
  const folder = sweepFolder(sweep);
  if (existsSync(join(folder, "sweep.json"))) {
    return { runs: findRuns([SweepFolder.open(folder).dir]).runs, from: folder };
  }
  const table = join("results", "studies", `${sweep}.csv`);
  return existsSync(table)
    ? { runs: studyRuns(readFileSync(table, "utf8")), from: table }
    : undefined;
}

/** Judge a claim by a study of ours. */
export function judgeClaim(claim: Claim, study: ReturnType<typeof claimRuns>): Verdict {
  if (study === undefined) {
    return {
      verdict: "not run",
      ours: [],
      missing: `run it: tessera sweep configs/sweeps/${claim.sweep}.yaml`,
    };
  }
  const results = claim.tests.map((test) => judgeTest(test, study.runs));
  const missing = results.find(({ verdict }) => verdict === "not run");
  return {
    verdict: missing
      ? "not run"
      : results.some(({ verdict }) => verdict === "fails")
        ? "fails"
        : results.every(({ verdict }) => verdict === "holds")
          ? "holds"
          : "undecided",
    ours: results.map(({ text }) => text),
    ...(missing && { missing: `${study.from} lacks runs of ${missing.text}` }),
  };
}

const labelled = (labels: { readonly [axis: string]: string }): string =>
  Object.entries(labels)
    .map(([axis, text]) => `${axis} ${text}`)
    .join(", ");

function judgeTest(
  { score, of, beats, margin }: Claim["tests"][number],
  runs: readonly ComparedRun[],
): { verdict: "holds" | "fails" | "undecided" | "not run"; text: string } {
  const pick = (wanted: { readonly [axis: string]: string }) => {
    const own = runs.filter(({ labels }) =>
      Object.entries(wanted).every(([axis, text]) => labels?.[axis] === text),
    );
    return new Map(
      own.flatMap(({ seed, scores }) => {
        const found = scores.find(({ name }) => name === score);
        return found ? [[seed, found] as const] : [];
      }),
    );
  };
  const [left, right] = [pick(of), pick(beats)];
  const name = `${score}: ${labelled(of)} against ${labelled(beats)}`;
  const seeds = [...left.keys()].filter(
    (seed) => right.get(seed)?.protocolHash === left.get(seed)!.protocolHash,
  );
  if (seeds.length === 0) {
    return { verdict: "not run", text: name };
  }
  const sign = left.get(seeds[0]!)!.better === "lower" ? -1 : 1;
  const gains = seeds.map((seed) => sign * (left.get(seed)!.value - right.get(seed)!.value));
  const interval = bootstrapInterval(gains);
  const range = interval
    ? ` [${interval.low.toPrecision(3)}, ${interval.high.toPrecision(3)}]`
    : "";
  const text = `${name}: better by ${mean(gains).toPrecision(3)}${range}, ${seeds.length} seeds`;
  // One seed shows nothing of chance.
  return {
    verdict: !interval
      ? "undecided"
      : interval.low > margin
        ? "holds"
        : interval.high < margin
          ? "fails"
          : "undecided",
    text,
  };
}
