/** @file `tessera rd`: runs as points of rate-distortion curves, beside video codecs. */

import { type Command, Option } from "commander";
import type { Interpolation } from "../eval/compression/bjontegaard.ts";
import { print, printJson, table } from "./output.ts";

interface RdOptions {
  readonly interpolation: Interpolation;
  readonly out?: string;
  readonly json?: boolean;
}

export function addRd(program: Command): void {
  program
    .command("rd")
    .description("rate-distortion of several runs beside video codecs, with BD-rates")
    .argument("<runs...>", "run folders with the evaluation `compression`")
    .addOption(
      new Option("--interpolation <name>", "of curves; cubic needs four points")
        .choices(["pchip", "akima", "cubic"])
        .default("pchip"),
    )
    .option("--out <page.html>", "write a page with the chart")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Each run's tokenizer is one point of a curve for each code; two or more runs of different rates make
a curve. All must have been measured on the same clips.

Examples:
  tessera rd results/vocabulary/*
  tessera rd RUN1 RUN2 RUN3 RUN4 --interpolation cubic --out rates.html`,
    )
    .action(run);
}

async function run(dirs: string[], options: RdOptions): Promise<void> {
  const { mergeRates, ratesPage, readRates } = await import("../reports/rate-compare.ts");
  const merged = mergeRates(readRates(dirs), options.interpolation);
  if (options.json) {
    printJson(merged);
  } else {
    const number = (value: number | undefined, digits: number): string =>
      value === undefined ? "–" : value.toFixed(digits);
    print(
      table(
        [
          ["run", "code", "bits/pixel", "PSNR dB", "SSIM"],
          ...merged.own.map((p) => [
            p.run,
            p.series.replace("tokens: ", ""),
            p.bpp.toFixed(5),
            p.psnr.toFixed(2),
            number(p.ssim, 4),
          ]),
        ],
        [2, 3, 4],
      ),
    );
    print("");
    print(
      table(
        [
          ["code", "against", "BD-rate %", "rate % at each run's PSNR"],
          ...merged.comparisons.map((c) => [
            c.code.replace("tokens: ", ""),
            c.anchor,
            number(c.bdRate, 1),
            c.atOwnPsnr.map(({ percent }) => number(percent, 1)).join("  "),
          ]),
        ],
        [2],
      ),
    );
    const reasons = new Set(merged.comparisons.flatMap(({ reason }) => reason ?? []));
    for (const reason of reasons) {
      print(`– : ${reason}`);
    }
  }
  if (options.out !== undefined) {
    const { writeFileAtomic } = await import("../runtime/files.ts");
    writeFileAtomic(options.out, await ratesPage(merged));
    print(options.out);
  }
}
