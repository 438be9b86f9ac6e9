/** @file `tessera export`: a run's tokenizer as ONNX files. */

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { stringify } from "yaml";
import { UserError } from "../config/errors.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { print } from "./output.ts";

export function addExport(program: Command): void {
  program
    .command("export")
    .description("write a run's tokenizer as ONNX files, and the config that reads them")
    .argument("<run>", "a run folder whose tokenizer is trained")
    .requiredOption("--out <folder>", "where encoder.onnx, decoder.onnx and tokenizer.yaml go")
    .option("--batch <n>", "clips that the files take at a time", "1")
    .addHelpText(
      "after",
      `
The files hold the averaged weights. tokenizer.yaml declares them as an external tokenizer: any
experiment can use it with tokenizer.extends or as \`tokenizer: ...\`, and trainer.tokenizer.steps=0.

Example:
  tessera export results/quickstart/<hash>-s0 --out exported`,
    )
    .action(async (dir: string, options: { readonly out: string; readonly batch: string }) => {
      const batch = Number(options.batch);
      if (!Number.isInteger(batch) || batch < 1) {
        throw new UserError(
          `--batch ${options.batch}: expected a whole number from 1`,
          "--batch 1",
        );
      }
      const { openRun } = await import("../trainers/open-run.ts");
      const { exportTokenizer } = await import("../tokenizers/export.ts");
      const run = await openRun(dir, {
        device: { type: "cpu", engine: "onnx", threads: 0 },
        tokenizerOnly: true,
      });
      try {
        const { encoder, decoder, config } = exportTokenizer(run.tokenizer, batch);
        mkdirSync(options.out, { recursive: true });
        const paths = {
          encoder: join(options.out, "encoder.onnx"),
          decoder: join(options.out, "decoder.onnx"),
        };
        writeFileAtomic(paths.encoder, encoder);
        writeFileAtomic(paths.decoder, decoder);
        const { type, ...rest } = config;
        const yaml = stringify({ type, ...paths, ...rest });
        writeFileAtomic(join(options.out, "tokenizer.yaml"), yaml);
        print(`${paths.encoder}\n${paths.decoder}\n${join(options.out, "tokenizer.yaml")}`);
      } finally {
        await run.close();
      }
    });
}
