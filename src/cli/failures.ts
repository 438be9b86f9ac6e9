/** @file What a thrown error means for the person at the terminal: words on stderr, an exit code. */

import { CommanderError } from "commander";
import { UserError } from "../config/errors.ts";
import { coloured, say } from "./output.ts";

/** Errors of the system that are no fault of the program: no room, no right. */
const systemCodes: { readonly [code: string]: string } = {
  EACCES: "permission was denied; check who owns the file",
  EPERM: "permission was denied; check who owns the file",
  EROFS: "the file system is read-only; choose another folder with output=FOLDER",
  ENOSPC: "the disk is full; free some space, then give the same command again",
  EDQUOT: "the quota is used up; free some space, then give the same command again",
};

/** Print an error as its kind deserves. Returns the process's exit code. */
export function exitCodeOfError(error: unknown): number {
  if (error instanceof CommanderError) {
    return error.exitCode === 0 ? 0 : 2; // commander has printed its message
  }
  if (error instanceof UserError) {
    printFailure(error.message, error.hint);
    return 2;
  }
  const { code, message } = error as NodeJS.ErrnoException;
  const remedy = code === undefined ? undefined : systemCodes[code];
  if (remedy !== undefined) {
    printFailure(message, remedy);
    return 2;
  }
  say(`${label()} this is a bug in Tessera, not a fault of the input\n${stackOf(error)}`);
  return 1;
}

/** A message and its hint, as every command prints them. */
function printFailure(message: string, hint: string | undefined): void {
  say(`${label()} ${message}`);
  if (hint !== undefined) {
    say(`  hint: ${hint.replaceAll("\n", "\n  ")}`);
  }
}

const label = () => coloured("red", "error:", process.stderr);

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) {
    return String(error);
  }
  const cause = error.cause === undefined ? "" : `\ncaused by ${stackOf(error.cause)}`;
  return `${error.stack ?? error.message}${cause}`;
}
