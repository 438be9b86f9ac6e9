/** @file `tessera study`: what sweeps have found, as a file and a page that are committed. */

import { mkdirSync } from "node:fs";
import { basename, join } from "node:path";
import type { Command } from "commander";
import { UserError } from "../config/errors.ts";
import { print, say } from "./output.ts";

interface Options {
  readonly name?: string;
  readonly to: string;
  readonly output: string;
  readonly partial?: boolean;
  readonly overwrite?: boolean;
}

export function addStudy(program: Command): void {
  program
    .command("study")
    .description("put the trials of sweeps into results/studies: a JSON file and a page, to commit")
    .argument("<sweeps...>", "sweeps (folder, file or name), run folders, or a study's JSON file")
    .option("--name <name>", "the study's name; the first sweep's when left out")
    .option("--to <folder>", "where to write", join("results", "studies"))
    .option("--output <folder>", "where sweeps are looked for by name", "results")
    .option("--partial", "also when trials have not finished")
    .option("--overwrite", "replace a page that was not written by this command")
    .addHelpText(
      "after",
      `
The JSON file has every trial with its labels, seed, scores, protocols, steps, device and commit; the
page has the verdicts of the claims in configs/benchmarks, means with intervals, and paired differences
to the sweep's baseline. What stands below the page's last line is written by hand and kept. The same
sweep from several places is merged by trial. \`tessera reproduce\`, \`compare\` and \`report\` read the
file in place of the runs; \`npm run docs\` brings the ledger up to date.

Examples:
  tessera study vocabulary
  tessera study claim-13 claim-15 --name tokenizer-claims
  tessera study fetched/one/sweeps/vocabulary fetched/two/sweeps/vocabulary
  tessera compare results/studies/vocabulary.json --format latex`,
    )
    .action(run);
}

async function run(named: string[], options: Options): Promise<void> {
  const [{ findRuns }, { studyOf, studyText }, { notesOf, studyPage }, { writeFileAtomic }] =
    await Promise.all([
      import("../reports/compare/runs.ts"),
      import("../reports/studies/evidence.ts"),
      import("../reports/studies/page.ts"),
      import("../runtime/files.ts"),
    ]);
  const name =
    options.name ?? basename(named[0]!.replace(/[/\\]+$/, "")).replace(/\.(ya?ml|json)$/, "");
  if (!/^[\w.-]+$/.test(name)) {
    throw new UserError(`${name} cannot be a study's name`, "give one with --name");
  }
  const study = studyOf(
    name.replace(/^@/, ""),
    named.map((one) => findRuns([one], options.output)),
  );
  const trials = study.sweeps.flatMap((sweep) => sweep.trials);
  const unfinished = trials.filter(({ state }) => state !== "finished").length;
  if (unfinished > 0 && !options.partial) {
    throw new UserError(
      `${unfinished} of ${trials.length} trials have not finished`,
      "`tessera sweep resume NAME` runs them; --partial writes the study without them",
    );
  }
  const file = join(options.to, `${study.study}.json`);
  const page = join(options.to, `${study.study}.md`);
  const notes = options.overwrite ? keptNotes(page, notesOf) : notesOf(page);
  mkdirSync(options.to, { recursive: true });
  writeFileAtomic(file, studyText(study));
  writeFileAtomic(page, studyPage(study, file, notes));
  print(file);
  print(page);
  say(`${trials.length} trials; \`npm run docs\` brings docs/ledger.md up to date`);
}

/** A page of this command keeps its notes; another's is replaced. */
function keptNotes(page: string, notesOf: (path: string) => string): string {
  try {
    return notesOf(page);
  } catch (error) {
    if (error instanceof UserError) {
      return "";
    }
    throw error;
  }
}
