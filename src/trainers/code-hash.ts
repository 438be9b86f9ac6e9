/** @file The hash of the code that decides results: equal hashes, equal programs. */

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The rooms whose code a result may depend on; not the command line, sweeps and reports. */
const rooms = [
  "config",
  "runtime",
  "data",
  "models",
  "tokenizers",
  "objectives",
  "eval",
  "trainers",
] as const;

let known: string | undefined;

/** 16 hexadecimal digits over the files of the rooms, as they are run (src/ or dist/), and their packages. */
export function codeHash(): string {
  if (known === undefined) {
    const base = fileURLToPath(new URL("..", import.meta.url));
    const hash = createHash("sha256");
    for (const room of rooms) {
      for (const name of readdirSync(join(base, room), {
        recursive: true,
        encoding: "utf8",
      }).sort()) {
        if (/\.(js|ts)$/.test(name) && !name.endsWith(".d.ts")) {
          hash.update(`${room}/${name}\0`).update(readFileSync(join(base, room, name)));
        }
      }
    }
    const lockfile = join(base, "..", "package-lock.json");
    if (existsSync(lockfile)) {
      hash.update(readFileSync(lockfile));
    }
    known = hash.digest("hex").slice(0, 16);
  }
  return known;
}
