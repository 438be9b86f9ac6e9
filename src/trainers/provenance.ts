/**
 * @file provenance.json: where a run's numbers come from. Code (commit, uncommitted changes),
 * packages, machine, command and data, so that another person can make the same run.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { arch, cpus, hostname, platform, release, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Environment variables that may change results. Nothing else of the environment is recorded. */
const ENVIRONMENT = [
  "OMP_NUM_THREADS",
  "OMP_THREAD_LIMIT",
  "NODE_OPTIONS",
  "UV_THREADPOOL_SIZE",
  "CUDA_VISIBLE_DEVICES",
  "SLURM_JOB_ID",
  "SLURM_ARRAY_TASK_ID",
] as const;

export interface Provenance {
  readonly tessera: string;
  readonly git?: {
    readonly commit: string;
    readonly branch: string;
    /** True when files of the program differ from the commit; the difference is in `diff_file`. */
    readonly dirty: boolean;
    readonly diff_sha256?: string;
    readonly diff_file?: string;
  };
  readonly lockfile_sha256?: string;
  readonly packages: { readonly [name: string]: string };
  readonly node: string;
  readonly os: string;
  readonly host: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memory_gib: number;
  readonly device: string;
  /** Version of NVIDIA's driver, where there is one. */
  readonly driver?: string;
  /** What computed, where the device has more than one engine. */
  readonly engine?: string;
  readonly seed: number;
  readonly config_hash: string;
  readonly command: readonly string[];
  readonly cwd: string;
  readonly env: { readonly [name: string]: string };
  readonly datasets: { readonly [split: string]: string };
  readonly started: string;
}

/** The folder that holds package.json, from dist/ as well as from src/. */
export function packageRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(dir, "package.json")) && dirname(dir) !== dir) {
    dir = dirname(dir);
  }
  return dir;
}

/**
 * Gather what is known here and now.
 * @returns the record, and the text of uncommitted changes when there are some
 */
export function gatherProvenance(run: {
  readonly device: string;
  readonly engine?: string | undefined;
  readonly seed: number;
  readonly configHash: string;
  readonly datasets: { readonly [split: string]: string };
}): { readonly provenance: Provenance; readonly diff: string | undefined } {
  const root = packageRoot();
  const manifest = readJson(join(root, "package.json")) as {
    version: string;
    dependencies: { [name: string]: string };
  };
  const { git, diff } = gitState(root);
  const lockfile = join(root, "package-lock.json");
  const driver = gpuDriver();
  const provenance: Provenance = {
    tessera: manifest.version,
    ...(git && { git }),
    ...(existsSync(lockfile) && { lockfile_sha256: sha256(readFileSync(lockfile)) }),
    packages: installedVersions(root, Object.keys(manifest.dependencies)),
    node: process.version,
    os: `${platform()} ${release()} ${arch()}`,
    host: hostname(),
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    memory_gib: Math.round(totalmem() / 2 ** 30),
    device: run.device,
    ...(driver !== undefined && { driver }),
    ...(run.engine !== undefined && { engine: run.engine }),
    seed: run.seed,
    config_hash: run.configHash,
    command: process.argv.slice(1),
    cwd: process.cwd(),
    env: Object.fromEntries(
      ENVIRONMENT.flatMap((name) => {
        const value = process.env[name];
        return value === undefined ? [] : [[name, value]];
      }),
    ),
    datasets: run.datasets,
    started: new Date().toISOString(),
  };
  return { provenance, diff };
}

/** Commit and uncommitted changes of the program in a folder; a sweep's copy of it remembers its own. */
export function gitState(root: string): { git?: NonNullable<Provenance["git"]>; diff?: string } {
  const copied = join(root, "snapshot.json");
  if (existsSync(copied)) {
    const { git: then } = readJson(copied) as { git?: NonNullable<Provenance["git"]> };
    const changes = join(root, "uncommitted.diff");
    return {
      ...(then && { git: then }),
      ...(existsSync(changes) && { diff: readFileSync(changes, "utf8") }),
    };
  }
  const git = (...args: string[]) =>
    execFileSync("git", ["-C", root, ...args], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
      maxBuffer: 1 << 28,
    });
  try {
    const [commit = "", branch = ""] = git("rev-parse", "HEAD", "--abbrev-ref", "HEAD").split("\n");
    const diff = git("diff", "HEAD", "--binary") + newFiles(root, git);
    return diff === ""
      ? { git: { commit, branch, dirty: false } }
      : {
          git: {
            commit,
            branch,
            dirty: true,
            diff_sha256: sha256(diff),
            diff_file: "uncommitted.diff",
          },
          diff,
        };
  } catch {
    return {}; // not a checkout, or no git: an installed package
  }
}

/** Parts of the program: a file that is in them and not yet in git belongs to its changes. */
const PARTS = ["src", "configs", "native", "scripts"];

/** Files of the program that git does not know yet, as a diff that `git apply` makes them from. */
function newFiles(root: string, git: (...args: string[]) => string): string {
  return git("ls-files", "--others", "--exclude-standard", "-z", "--", ...PARTS)
    .split("\0")
    .filter((name) => name !== "")
    .map((name) => {
      // Its exit code says that the files differ.
      const { stdout } = spawnSync(
        "git",
        ["-C", root, "diff", "--no-index", "--binary", "--", "/dev/null", name],
        { encoding: "utf8", maxBuffer: 1 << 28 },
      );
      return stdout;
    })
    .join("");
}

/** The GPU driver's version, as the kernel module tells it, or its tool where containers hide that. */
function gpuDriver(): string | undefined {
  try {
    return driverVersion(readFileSync("/proc/driver/nvidia/version", "utf8"));
  } catch {
    // no such module, or not to be seen from here
  }
  if (!existsSync("/dev/nvidiactl")) {
    return undefined;
  }
  try {
    const args = ["--query-gpu=driver_version", "--format=csv,noheader", "--id=0"];
    return execFileSync("nvidia-smi", args, { encoding: "utf8", timeout: 10_000 }).trim();
  } catch {
    return undefined;
  }
}

/** "580.82.07" of "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build ...". */
export function driverVersion(text: string): string | undefined {
  return /NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s/.exec(text)?.[1];
}

function installedVersions(root: string, names: readonly string[]): { [name: string]: string } {
  const versions: { [name: string]: string } = {};
  for (const name of names) {
    for (let dir = root; ; dir = dirname(dir)) {
      const path = join(dir, "node_modules", name, "package.json");
      if (existsSync(path)) {
        versions[name] = (readJson(path) as { version: string }).version;
        break;
      }
      if (dirname(dir) === dir) {
        break;
      }
    }
  }
  return versions;
}

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, "utf8"));
}

function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}
