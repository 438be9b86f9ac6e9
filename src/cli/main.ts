#!/usr/bin/env node
/**
 * @file The command `tessera`. It reads the arguments, runs one command and turns what was thrown
 * into words and an exit code: 0 done, 2 the user's to mend, 1 a bug or a check that did not hold,
 * 130 and 143 stopped by a signal.
 */

import module from "node:module";

// Node 22 and later keep what they have compiled. Everything else is loaded after this.
(module as { enableCompileCache?: () => void }).enableCompileCache?.();
const [{ exitCodeOfError }, { buildProgram }] = await Promise.all([
  import("./failures.ts"),
  import("./program.ts"),
]);

// A reader that goes away (`tessera show X | head`) is no error.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") {
      throw error;
    }
    process.exit();
  });
}

try {
  await buildProgram().parseAsync(process.argv);
} catch (error) {
  process.exitCode = exitCodeOfError(error);
}
// Native libraries may keep threads alive that no longer do anything; what was printed goes first.
process.stdout.write("", () => process.stderr.write("", () => process.exit()));
