/**
 * @file The program of a sweep, copied when the sweep is begun: `code/<hash>/`. Whatever happens to
 * the working tree afterwards, trials that wait run what was submitted. The copy is made beside its
 * name and renamed, so that no trial ever finds a half one; packages are linked, not copied, and the
 * lock file's hash in provenance.json says which they were.
 */

import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import { gitState } from "../trainers/provenance.ts";
import { ownRoot } from "./command.ts";

/** What a program consists of, as far as it is there; the built one, or its sources where none is. */
function parts(root: string): string[] {
  const program = existsSync(join(root, "dist", "cli", "main.js")) ? ["dist"] : ["src"];
  return [
    ...program,
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "configs",
    "src/eval/weights",
    "native",
    "build/native",
    "build/torch",
  ].filter((name) => existsSync(join(root, name)));
}

/** Files that no trial reads. */
const unread = /\.(d\.ts|map|tsbuildinfo|o|obj|md)$/;

function filesOf(root: string): string[] {
  return parts(root)
    .flatMap((name) => {
      const path = join(root, name);
      return statSync(path).isDirectory()
        ? readdirSync(path, { recursive: true, withFileTypes: true })
            .filter((entry) => entry.isFile())
            .map((entry) => relative(root, join(entry.parentPath, entry.name)))
        : [name];
    })
    .filter((name) => !unread.test(name))
    .sort();
}

/**
 * Copy the running program below a sweep's folder, unless it is there already.
 * @returns the copy's name below code/
 */
export function snapshotCode(dir: string, root: string = ownRoot): string {
  const files = [...new Set(filesOf(root))];
  const hash = createHash("sha256");
  for (const name of files) {
    hash.update(`${name}\0`).update(readFileSync(join(root, name)));
  }
  const name = hash.digest("hex").slice(0, 16);
  const target = join(dir, "code", name);
  if (existsSync(target)) {
    return name;
  }
  const temporary = `${target}.${process.pid}.tmp`;
  rmSync(temporary, { recursive: true, force: true });
  for (const file of files) {
    mkdirSync(join(temporary, file, ".."), { recursive: true });
    cpSync(join(root, file), join(temporary, file));
  }
  symlinkSync(packagesOf(root), join(temporary, "node_modules"));
  const { git, diff } = gitState(root);
  if (diff !== undefined) {
    writeFileSync(join(temporary, "uncommitted.diff"), diff);
  }
  writeFileSync(
    join(temporary, "snapshot.json"),
    `${JSON.stringify({ ...(git && { git }), hash: name }, null, 2)}\n`,
  );
  try {
    renameSync(temporary, target);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    if (!existsSync(target)) {
      throw error; // else another process was first
    }
  }
  return name;
}

/** The node_modules folder that the program resolves its packages from. */
function packagesOf(root: string): string {
  for (let dir = root; ; dir = join(dir, "..")) {
    const path = join(dir, "node_modules");
    if (existsSync(path)) {
      return realpathSync(path);
    }
    if (join(dir, "..") === dir) {
      return join(root, "node_modules");
    }
  }
}
