/** @file `tessera words`: a vocabulary of words for SPAE's pyramid, from a data set's captions. */

import type { Command } from "commander";
import { writeFileAtomic } from "../runtime/files.ts";
import { loadExperiment } from "./experiment.ts";
import { integer } from "./options.ts";
import { print } from "./output.ts";

export function addWords(program: Command): void {
  program
    .command("words")
    .description("write the words of a data set's captions as a table for a pyramid (spae)")
    .argument("<experiment>", "the experiment whose data set is taken, as for `run`")
    .argument("[overrides...]", "a.b=c, a=@name")
    .requiredOption("--out <file>", "the safetensors file to write")
    .option("--clips <n>", "clips of the train split to look at", integer(1), 480)
    .option("--width <n>", "channels of a word's embedding", integer(1), 16)
    .option("--drop <word...>", "words to leave out, such as those without meaning")
    .addHelpText(
      "after",
      `
The file has a fixed random embedding for each word, and where each word lies in the feature space of
the network that comes along, for the semantic loss.

Example:
  tessera words @tokenizer --out words.safetensors
  tessera run @tokenizer tokenizer=@spae-small tokenizer.quantizer.words=words.safetensors \\
    tokenizer.quantizer.size=<as printed>`,
    )
    .action(
      async (
        file: string,
        overrides: string[],
        options: {
          readonly out: string;
          readonly clips: number;
          readonly width: number;
          readonly drop?: readonly string[];
        },
      ) => {
        const { config } = await loadExperiment(file, overrides);
        const [{ openDataset }, { openDevice }, { makeWordTable }] = await Promise.all([
          import("../data/registry.ts"),
          import("../runtime/registry.ts"),
          import("../tokenizers/word-table.ts"),
        ]);
        const dataset = await openDataset(config.dataset, "train", config.seed);
        const device = await openDevice(config.device);
        try {
          const table = await makeWordTable(dataset, device, options);
          writeFileAtomic(options.out, table.file);
          print(`${options.out}: ${table.words.length} words: ${table.words.join(" ")}`);
        } finally {
          device.dispose();
          await dataset.close();
        }
      },
    );
}
