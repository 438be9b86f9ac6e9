/**
 * @file Looking into the files of a set when it is opened: which can be used, and what to tell of the
 * others. What was found is remembered by path, size and time, and kept in the set's index.
 */

import { UserError } from "../config/errors.ts";
import type { Skipped } from "./dataset.ts";
import type { ClipTask, DecodedClip } from "./decode.ts";
import { type Candidate, fileOf, type Listing } from "./listing.ts";
import { WorkerPool } from "./pool.ts";
import type { Probe, Probed, ProbeTask } from "./probe.ts";
import type { SoundLook } from "./sound.ts";
import { warnOnce } from "./warnings.ts";

/** How files are looked into. */
export interface LookOptions {
  /** What the set is called in messages. */
  readonly where: string;
  /** `drawn` looks into a file only when a clip of it is drawn. */
  readonly verify: "full" | "quick" | "drawn";
  readonly missing_frames: number;
  readonly strict: boolean;
}

/** Something that can be used; without a probe it was not looked into. */
export interface Usable extends Candidate {
  readonly probe?: Probe;
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
    const { probe, decode, closeFiles } = await import("./worker.ts");
    return { probe, decode, close: closeFiles };
  }
  const pool = new WorkerPool(workers);
  return {
    probe: (task) => pool.run("probe", task),
    decode: (task) => pool.run("decode", task),
    close: () => pool.close(),
  };
}

/** Reads sounds in threads or here. */
export interface SoundRunner {
  /** How long a file sounds, or why it does not. */
  look(file: string): Promise<SoundLook>;
  read(
    file: string,
    start: number,
    samples: number,
    rate: number,
  ): Promise<{ readonly audio: Float32Array } | { readonly problem: string }>;
  close(): Promise<void>;
}

/** @param workers threads; 0 runs in this one */
export async function makeSoundRunner(workers: number): Promise<SoundRunner> {
  if (workers === 0) {
    const { lookSound, readSound } = await import("./worker.ts");
    return {
      look: (file) => lookSound({ file }),
      read: (file, start, samples, rate) => readSound({ file, start, samples, rate }),
      close: () => Promise.resolve(),
    };
  }
  const pool = new WorkerPool(workers);
  return {
    look: (file) => pool.run("lookSound", { file }),
    read: (file, start, samples, rate) => pool.run("readSound", { file, start, samples, rate }),
    close: () => pool.close(),
  };
}

/** What was found in files before. */
const remembered = new Map<string, Probed>();

/** Names what was found: the file as it is, and the way of looking. */
export function lookKey(
  { source, size, modified }: Candidate,
  { verify, missing_frames: missing }: Pick<LookOptions, "verify" | "missing_frames">,
): string {
  const place = "span" in source ? source.span : "offset" in source ? source.offset : null;
  return JSON.stringify([fileOf(source), place ?? null, size, modified, verify, missing]);
}

/** What was found in a file before, if it was looked into. */
export function recall(key: string): Probed | undefined {
  return remembered.get(key);
}

export function remember(key: string, probed: Probed): void {
  remembered.set(key, probed);
}

/**
 * Look into every file; report and leave out what cannot be used.
 * @param unfit why a sound file is of no use to the set, e.g. because it is too short
 * @throws UserError when no file can be used, or with `strict` when one cannot
 */
export async function lookInto(
  options: LookOptions,
  listing: Listing,
  runner: Runner,
  unfit: (probe: Probe, candidate: Candidate) => string | undefined,
): Promise<{ usable: Usable[]; skipped: Skipped[] }> {
  const { where, verify, missing_frames: missing } = options;
  const lost = listing.missing.map(({ file, reason }) => ({ file, reason }));
  if (verify === "drawn") {
    return report(options, [...listing.candidates], lost);
  }
  const fresh = listing.candidates.filter((one) => !remembered.has(lookKey(one, options)));
  if (verify === "full" && fresh.length > 2000) {
    warnOnce(`decoding ${fresh.length} files of ${where} once to check them; dataset.verify=quick is faster, and dataset.index=FILE keeps the result`); // biome-ignore format: one message
  }
  await Promise.all(
    fresh.map(async (candidate) => {
      const { source } = candidate;
      const probed: Probed =
        candidate.size === 0 && source.kind !== "pixels"
          ? { problem: "is empty" }
          : await runner.probe({ source, verify, missing });
      remembered.set(lookKey(candidate, options), probed);
    }),
  );
  const usable: Usable[] = [];
  const skipped: Skipped[] = lost;
  for (const candidate of listing.candidates) {
    const probed = remembered.get(lookKey(candidate, options))!;
    const problem = "problem" in probed ? probed.problem : unfit(probed, candidate);
    if (problem === undefined && !("problem" in probed)) {
      usable.push({ ...candidate, probe: probed });
    } else {
      skipped.push({ file: candidate.name, reason: problem! });
    }
  }
  return report(options, usable, skipped);
}

function report(
  { where, strict }: LookOptions,
  usable: Usable[],
  skipped: Skipped[],
): { usable: Usable[]; skipped: Skipped[] } {
  const told = skipped.map(({ file, reason }) => `${file} ${reason}`);
  const some =
    told.slice(0, 10).join("\n  ") + (told.length > 10 ? `\n  and ${told.length - 10} more` : "");
  if (usable.length === 0) {
    throw new UserError(
      `none of the ${skipped.length} files of ${where} can be used:\n  ${some}`,
      "Check the files with a player; for short ones lower dataset.frames or dataset.stride.",
    );
  }
  if (strict && skipped.length > 0) {
    throw new UserError(
      `${skipped.length} files of ${where} cannot be used:\n  ${some}`,
      "Remove or repair them, or set dataset.strict=false to leave them out.",
    );
  }
  // Thousands of lines hide what matters; `tessera data check` lists all.
  for (const line of told.slice(0, 50)) {
    warnOnce(`skipped: ${line}`);
  }
  if (skipped.length > 0) {
    warnOnce(`${where}: ${usable.length} files used, ${skipped.length} skipped`);
  }
  return { usable, skipped };
}
