/** @file `tessera report`: write the page of a run, of a sweep, or of runs beside each other. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { UserError } from "../config/errors.ts";
import { print } from "./output.ts";

interface Options {
  readonly out?: string;
  readonly benchmarks?: boolean;
}

export function addReport(program: Command): void {
  program
    .command("report")
    .description("write the page of a run, of a sweep, or of several runs side by side")
    .argument(
      "[what...]",
      "a run folder; a sweep or study (folder, file or name); or several of them",
    )
    .option("--benchmarks", "the page of published numbers and claims: all papers', or those named")
    .option("--out <file>", "where to write it; needed for several")
    .addHelpText(
      "after",
      `
The page is one file that loads nothing: open it, mail it, keep it. It works on runs and sweeps that
are not finished too.

Examples:
  tessera report results/quickstart/<hash>-s0
  tessera report results/sweeps/quickstart-seeds
  tessera report results/quickstart results/sweeps/vocabulary --out both.html
  tessera report results/studies/vocabulary.json --out vocabulary.html
  tessera report --benchmarks magvit2`,
    )
    .action(async (named: string[], { out, benchmarks }: Options) => {
      if (benchmarks) {
        const { writeBenchmarks } = await import("../reports/report.ts");
        print(writeBenchmarks(named, out ?? join("results", "benchmarks.html")));
        return;
      }
      if (named.length === 0) {
        throw new UserError("nothing is named", "give a run folder or a sweep, or --benchmarks");
      }
      const [{ writeComparison, writeReport }, { sweepFolder }] = await Promise.all([
        import("../reports/report.ts"),
        import("../sweeps/folder.ts"),
      ]);
      const folders = named.map((name) => sweepFolder(name));
      const [first] = folders as [string];
      const isSweep = existsSync(join(first, "sweep.json"));
      const isRun =
        existsSync(join(first, "config.json")) || existsSync(join(first, "config.yaml"));
      if (folders.length === 1 && out === undefined && !isSweep) {
        print(await writeReport(first)); // says so when it is no run folder either
        return;
      }
      if (folders.length > 1 && out === undefined) {
        throw new UserError(
          "several runs have no folder of their own",
          "name the page with --out FILE",
        );
      }
      const page = out ?? join(first, "report.html");
      print(
        isRun && folders.length === 1
          ? await writeReport(first, page)
          : await writeComparison(folders, page),
      );
    });
}
