/**
 * @file Looking into every file of a video set when it is opened: which can be used, and what to
 * tell of the others. What was found is remembered by path, size and time.
 */

import { readFileSync, statSync } from "node:fs";
import { UserError } from "../config/errors.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import type { Skipped } from "./dataset.ts";
import type { ClipTask, DecodedClip } from "./decode.ts";
import { WorkerPool } from "./pool.ts";
import type { Probe, Probed, ProbeTask } from "./probe.ts";
import type { Candidate, Found } from "./video-files.ts";
import { warnOnce } from "./warnings.ts";

/** The keys of a video set's config that looking depends on. */
export interface LookOptions {
  readonly path: string | null;
  readonly list: string | null;
  readonly extensions: readonly string[];
  readonly verify: "full" | "quick";
  readonly missing_frames: number;
  readonly strict: boolean;
  readonly probe_cache: string | null;
}

/** A file that can be used. */
export interface Video extends Candidate {
  readonly probe: Probe;
}

/** Decodes in threads or here. */
export interface Runner {
  probe(task: ProbeTask): Promise<Probed>;
  decode(task: ClipTask): Promise<DecodedClip | { readonly problem: string }>;
  close(): Promise<void>;
}

/** @param workers threads; 0 runs in this one */
export async function makeRunner(workers: number): Promise<Runner> {
  if (workers === 0) {
    const { probe, decode } = await import("./worker.ts");
    return { probe, decode, close: () => Promise.resolve() };
  }
  const pool = new WorkerPool(workers);
  return {
    probe: (task) => pool.run("probe", task),
    decode: (task) => pool.run("decode", task),
    close: () => pool.close(),
  };
}

/** What was found in files before, by path, size, time and the way of looking. */
const remembered = new Map<string, Probed>();

/**
 * Look into every file; report and leave out what cannot be used.
 * @param unfit why a sound file is of no use to the set, e.g. because it is too short
 * @throws UserError when no file can be used, or with `strict` when one cannot
 */
export async function lookInto(
  config: LookOptions,
  found: Found,
  runner: Runner,
  unfit: (probe: Probe) => string | undefined,
): Promise<{ videos: Video[]; skipped: Skipped[] }> {
  const where = config.list ?? config.path;
  const { verify, missing_frames: missing } = config;
  if (found.candidates.length + found.missing.length === 0) {
    throw new UserError(
      `no video files in ${where}`,
      `Looked for ${config.extensions.length > 0 ? config.extensions.join(", ") : "any file"}; see dataset.extensions.`,
    );
  }
  const keyOf = ({ file, size, modified }: Candidate): string =>
    JSON.stringify([file, size, modified, verify, missing]);
  readCache(config.probe_cache);
  const fresh = found.candidates.filter((candidate) => !remembered.has(keyOf(candidate)));
  if (verify === "full" && fresh.length > 2000) {
    warnOnce(`decoding ${fresh.length} files of ${where} once to check them; dataset.verify=quick is faster and dataset.probe_cache=FILE keeps the result`); // biome-ignore format: one message
  }
  await Promise.all(
    fresh.map(async (candidate) => {
      const probed: Probed =
        candidate.size === 0
          ? { problem: "is empty" }
          : await runner.probe({ file: candidate.file, verify, missing });
      remembered.set(keyOf(candidate), probed);
    }),
  );
  if (fresh.length > 0) {
    writeCache(config.probe_cache, found.candidates.map(keyOf));
  }
  const videos: Video[] = [];
  const skipped: Skipped[] = found.missing.map((file) => ({ file, reason: "does not exist" }));
  for (const candidate of found.candidates) {
    const probed = remembered.get(keyOf(candidate))!;
    const problem = "problem" in probed ? probed.problem : unfit(probed);
    if (problem === undefined && !("problem" in probed)) {
      videos.push({ ...candidate, probe: probed });
    } else {
      skipped.push({ file: candidate.name, reason: problem! });
    }
  }
  const told = skipped.map(({ file, reason }) => `${file} ${reason}`);
  const some =
    told.slice(0, 10).join("\n  ") + (told.length > 10 ? `\n  and ${told.length - 10} more` : "");
  if (videos.length === 0) {
    throw new UserError(
      `none of the ${skipped.length} files of ${where} can be used:\n  ${some}`,
      "Check the files with a player; for short ones lower dataset.frames or dataset.stride.",
    );
  }
  if (config.strict && skipped.length > 0) {
    throw new UserError(
      `${skipped.length} files of ${where} cannot be used:\n  ${some}`,
      "Remove or repair them, or set dataset.strict=false to leave them out.",
    );
  }
  for (const line of told) {
    warnOnce(`skipped: ${line}`);
  }
  if (skipped.length > 0) {
    warnOnce(`${where}: ${videos.length} files used, ${skipped.length} skipped`);
  }
  return { videos, skipped };
}

/** Take over a cache file. One that cannot be read is as good as none. */
function readCache(path: string | null): void {
  if (path === null || !statSync(path, { throwIfNoEntry: false })) {
    return;
  }
  try {
    const kept = JSON.parse(readFileSync(path, "utf8")) as [
      string,
      Probed & { times?: number[] },
    ][];
    for (const [key, probed] of kept) {
      const { times } = probed;
      remembered.set(key, times ? { ...probed, times: Float64Array.from(times) } : probed);
    }
  } catch {
    warnOnce(`${path} cannot be read and is written anew`);
  }
}

function writeCache(path: string | null, keys: readonly string[]): void {
  if (path !== null) {
    const kept = keys.map((key) => {
      const probed = remembered.get(key)!;
      return [key, "times" in probed ? { ...probed, times: [...probed.times!] } : probed];
    });
    writeFileAtomic(path, `${JSON.stringify(kept)}\n`);
  }
}
