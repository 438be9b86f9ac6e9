/**
 * @file Repeating a run: the commit and the uncommitted changes of its provenance are checked out into
 * a worktree of their own, built, and given the run's frozen config.
 */

import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { arch, cpus, platform, tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { execa } from "execa";
import { UserError } from "../config/errors.ts";
import { packageRoot, type Provenance } from "../trainers/provenance.ts";
import { programOf } from "./command.ts";

export interface RerunPlan {
  readonly dir: string;
  readonly commit: string;
  /** The run's uncommitted changes. */
  readonly diff?: string;
  readonly lockfile?: string;
  /** What may make the bytes differ although the code is the same. */
  readonly notes: readonly string[];
}

const sha256 = (data: string | Uint8Array): string =>
  createHash("sha256").update(data).digest("hex");

/**
 * What a repetition needs, from the run's provenance.
 * @throws UserError when something that it needs is not here
 */
export function checkRerun(dir: string): RerunPlan {
  const path = join(dir, "provenance.json");
  if (!existsSync(path) || !existsSync(join(dir, "config.json"))) {
    throw new UserError(
      `${dir} cannot be repeated: it has no provenance.json and config.json`,
      "give the folder of a run",
    );
  }
  const then = JSON.parse(readFileSync(path, "utf8")) as Provenance;
  const fail = (why: string, hint?: string): never => {
    throw new UserError(`${dir} cannot be repeated: ${why}`, hint);
  };
  if (then.git === undefined) {
    return fail(
      "its code was no checkout of git, so no commit is known",
      "install the same version of Tessera and run its config.json",
    );
  }
  const diffPath = join(dir, "uncommitted.diff");
  let diff: string | undefined;
  if (then.git.dirty) {
    if (!existsSync(diffPath)) {
      return fail("its code had uncommitted changes, and uncommitted.diff is not there");
    }
    diff = readFileSync(diffPath, "utf8");
    if (then.git.diff_sha256 !== undefined && sha256(diff) !== then.git.diff_sha256) {
      return fail("uncommitted.diff is not what the run recorded");
    }
  }
  const notes: string[] = [];
  const resumes = (then as Provenance & { resumes?: readonly Provenance[] }).resumes ?? [];
  if (
    resumes.some(
      ({ git }) => git?.commit !== then.git?.commit || git?.diff_sha256 !== then.git?.diff_sha256,
    )
  ) {
    notes.push("the run was resumed by other code than began it; only the first is repeated");
  }
  if (then.node !== process.version) {
    notes.push(`it ran on Node ${then.node}, this is ${process.version}`);
  }
  const cpu = cpus()[0]?.model ?? "unknown";
  if (then.cpu !== cpu || !then.os.startsWith(platform()) || !then.os.endsWith(arch())) {
    notes.push(`it ran on ${then.cpu} (${then.os}), this is ${cpu}: last bits may differ`);
  }
  return {
    dir,
    commit: then.git.commit,
    ...(diff !== undefined && { diff }),
    ...(then.lockfile_sha256 !== undefined && { lockfile: then.lockfile_sha256 }),
    notes,
  };
}

/** Check out, build and run. Returns the new run folder. */
export async function rerun(
  plan: RerunPlan,
  out: string | undefined,
  say: (text: string) => void,
): Promise<string> {
  const here = packageRoot();
  const work = resolve(out ?? mkdtempSync(join(tmpdir(), "tessera-rerun-")));
  const code = join(work, "code");
  const run = async (command: string, args: readonly string[], cwd: string): Promise<void> => {
    const { failed, stderr } = await execa(command, args, { cwd, reject: false });
    if (failed) {
      throw new UserError(`${command} ${args.join(" ")} failed in ${cwd}:\n${stderr}`);
    }
  };
  mkdirSync(work, { recursive: true });
  if (!existsSync(code)) {
    say(`checking out ${plan.commit.slice(0, 12)} into ${code}`);
    await run("git", ["worktree", "add", "--detach", code, plan.commit], here);
    if (plan.diff !== undefined) {
      writeFileSync(join(work, "uncommitted.diff"), plan.diff);
      await run("git", ["apply", "--whitespace=nowarn", join(work, "uncommitted.diff")], code);
    }
  }
  if (!existsSync(join(code, "node_modules"))) {
    const same = plan.lockfile === sha256(readFileSync(join(here, "package-lock.json")));
    if (same) {
      symlinkSync(realpathSync(join(here, "node_modules")), join(code, "node_modules"));
    } else {
      say("its packages are others than those installed here: npm ci");
      await run("npm", ["ci"], code);
    }
  }
  say("building");
  await run("npm", ["run", "--silent", "build"], code);
  const config = {
    ...(JSON.parse(readFileSync(join(plan.dir, "config.json"), "utf8")) as { name: string }),
    output: join(work, "results"),
  };
  // config.yaml keeps the order of the evaluations, which the order of the scores follows.
  const yaml = join(work, "config.yaml");
  copyFileSync(join(plan.dir, "config.yaml"), yaml);
  const [program, ...words] = programOf(code);
  say("running");
  const { exitCode } = await execa(program!, [...words, "run", yaml, `output=${config.output}`], {
    stdio: ["ignore", "ignore", "inherit"],
    reject: false,
  });
  const again = join(config.output, config.name, basename(resolve(plan.dir)));
  if (exitCode !== 0 || !existsSync(join(again, "scores.json"))) {
    throw new UserError(
      `the repetition ended with exit code ${exitCode} and without scores`,
      `its code and what it wrote are in ${work}; a run that made its folder under another hash has another config`,
    );
  }
  return again;
}

/** Files of a run that are the same bytes when it is repeated (docs/run-folder.md), compared. */
export function compareRuns(a: string, b: string): { equal: string[]; different: string[] } {
  const files = [
    "classes.json",
    "metrics.jsonl",
    "scores.json",
    ...["checkpoints/tokenizer", "checkpoints/transformer", "tokens"].flatMap((folder) =>
      existsSync(join(a, folder))
        ? readdirSync(join(a, folder)).map((name) => join(folder, name))
        : [],
    ),
  ].filter((name) => existsSync(join(a, name)) && dirname(name) !== "");
  const same = (name: string): boolean =>
    existsSync(join(b, name)) && readFileSync(join(a, name)).equals(readFileSync(join(b, name)));
  return { equal: files.filter(same), different: files.filter((name) => !same(name)) };
}
