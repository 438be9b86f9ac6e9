/** @file A sweep while it runs: a table that is drawn over itself on a terminal, lines elsewhere. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { formatSeconds } from "../reports/format.ts";
import type { SweepFolder, TrialRow } from "../sweeps/folder.ts";
import type { View } from "../sweeps/local.ts";
import type { Ending } from "../sweeps/outcome.ts";
import { runDirOf } from "../sweeps/state.ts";
import { coloured, say, table } from "./output.ts";

/** A trial's place in one line. */
export function placeOf({ labels }: Pick<TrialRow, "labels">): string {
  return Object.entries(labels)
    .map(([axis, text]) => `${axis.replace(/^.*\./, "")}=${text}`)
    .join(" ");
}

/** How far a run has come, in words: "transformer 120/400". */
export function progressOf(dir: string): string {
  try {
    const { stage, step, steps } = JSON.parse(readFileSync(join(dir, "status.json"), "utf8")) as {
      stage?: string;
      step?: number;
      steps?: number;
    };
    return stage === undefined
      ? "starting"
      : step === undefined
        ? stage
        : `${stage} ${step}/${steps}`;
  } catch {
    return "starting";
  }
}

/** The view of a sweep for this terminal. */
export function sweepView(folder: SweepFolder): View & { close(): void } {
  const total = folder.trials().length;
  const terminal = process.stderr.isTTY === true;
  const begun = new Map<string, number>();
  const counts = new Map<string, number>();
  let drawn = 0;
  const erase = (): void => {
    if (drawn > 0) {
      process.stderr.write(`\u001b[${drawn}A\u001b[0J`);
      drawn = 0;
    }
  };
  const line = (text: string): void => {
    erase();
    say(text);
  };
  return {
    started(trial, attempt) {
      begun.set(trial.id, performance.now());
      if (!terminal) {
        const again = attempt > 1 ? `, attempt ${attempt}` : "";
        line(`started   ${trial.id}  ${placeOf(trial)}${again}`);
      }
    },
    ended(trial, ending: Ending) {
      const seconds = (performance.now() - (begun.get(trial.id) ?? performance.now())) / 1000;
      counts.set(ending.outcome, (counts.get(ending.outcome) ?? 0) + 1);
      const colour =
        ending.outcome === "finished" ? "green" : ending.outcome === "failed" ? "red" : "yellow";
      const why = ending.error === undefined ? "" : `: ${ending.error}`;
      line(
        `${coloured(colour, ending.outcome.padEnd(9), process.stderr)} ${trial.id}  ${placeOf(trial)}  ${formatSeconds(seconds)}${why}`,
      );
    },
    tick(running) {
      if (!terminal) {
        return;
      }
      erase();
      const width = process.stderr.columns ?? 80;
      const rows = running.map((trial) => [
        trial.id,
        placeOf(trial),
        progressOf(runDirOf(folder, trial.dir)),
        formatSeconds((performance.now() - (begun.get(trial.id) ?? 0)) / 1000),
      ]);
      const tally = [...counts].map(([outcome, n]) => `${n} ${outcome}`).join(", ");
      const text = [`${total} trials: ${tally || "none done"}, ${running.length} running`];
      text.push(...(rows.length > 0 ? table(rows).split("\n") : []));
      for (const shown of text) {
        say(shown.slice(0, width - 1));
      }
      drawn = text.length;
    },
    say: line,
    close: erase,
  };
}
