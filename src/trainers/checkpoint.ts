/**
 * @file Checkpoints of one stage: everything that the next step depends on, in one safetensors file
 * that is written whole or not at all. Equal state gives equal bytes: no times, no host names.
 *
 * Folder: step-00001000.safetensors, ..., latest.json. The last two are kept: should a disk damage
 * the newest one, the one before takes its place with a warning.
 */

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { decodeSafetensors, encodeSafetensors } from "../runtime/safetensors.ts";
import type { HostTensor } from "../runtime/tensors.ts";

/** Changes when old checkpoints can no longer be resumed from. */
const FORMAT = "tessera-checkpoint-1";
const KEEP = 2;
const NAME = /^step-(\d{8,})\.safetensors$/;

export interface Checkpoint {
  /** Optimizer steps done. The position in the data follows from it. */
  readonly step: number;
  /** Named "model/...", "ema/...", "optimizer/m/...", "optimizer/v/...". */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  /** Small plain values of the loop: sums behind the next line of metrics. */
  readonly loop: LoopState;
}

/** Sums over the steps since the last line of metrics, by metric name. */
export interface LoopState {
  readonly count: number;
  readonly sums: { readonly [metric: string]: number };
}

/** The path of the checkpoint of one step. */
export function checkpointPath(dir: string, step: number): string {
  return join(dir, `step-${String(step).padStart(8, "0")}.safetensors`);
}

/** Write a checkpoint and drop the ones that are no longer kept. */
export function saveCheckpoint(dir: string, { step, tensors, loop }: Checkpoint): string {
  const path = checkpointPath(dir, step);
  const sums = Object.fromEntries(Object.entries(loop.sums).sort(([a], [b]) => (a < b ? -1 : 1)));
  const metadata = {
    format: FORMAT,
    step: String(step),
    loop: JSON.stringify({ count: loop.count, sums }),
  };
  writeFileAtomic(path, encodeSafetensors({ tensors, metadata }));
  const file = path.slice(dir.length + 1);
  writeFileAtomic(join(dir, "latest.json"), `${JSON.stringify({ step, file })}\n`);
  for (const { name } of listCheckpoints(dir).slice(KEEP)) {
    rmSync(join(dir, name), { force: true });
  }
  removeTemporaries(dir);
  return path;
}

/** Read one checkpoint file. Throws an Error that says what is wrong with it. */
export function readCheckpoint(path: string): Checkpoint {
  const { tensors, metadata } = decodeSafetensors(readFileSync(path));
  if (metadata["format"] !== FORMAT) {
    throw new Error(`its format is "${metadata["format"] ?? "unknown"}", expected "${FORMAT}"`);
  }
  return { tensors, step: Number(metadata["step"]), loop: JSON.parse(metadata["loop"]!) };
}

/**
 * The newest whole checkpoint of a folder, or undefined when there are none.
 * @param warn told of each file that had to be passed over
 * @throws UserError when there are checkpoints and none can be read
 */
export function latestCheckpoint(
  dir: string,
  warn: (message: string) => void,
): Checkpoint | undefined {
  const found = listCheckpoints(dir);
  const faults: string[] = [];
  for (const { name } of found) {
    try {
      return readCheckpoint(join(dir, name));
    } catch (error) {
      const fault = `${join(dir, name)}: ${(error as Error).message}`;
      faults.push(fault);
      warn(`checkpoint passed over, it cannot be read: ${fault}`);
    }
  }
  if (faults.length > 0) {
    throw new UserError(
      `no checkpoint in ${dir} can be read:\n  ${faults.join("\n  ")}`,
      `delete ${dir} to train this stage from its beginning`,
    );
  }
  return undefined;
}

/** The checkpoints of a folder, the newest first. */
export function listCheckpoints(dir: string): { step: number; name: string }[] {
  if (!existsSync(dir)) {
    return [];
  }
  return readdirSync(dir)
    .flatMap((name) => {
      const match = NAME.exec(name);
      return match ? [{ step: Number(match[1]), name }] : [];
    })
    .sort((a, b) => b.step - a.step);
}

/** Temporary files that a killed process left in a folder. */
export function removeTemporaries(dir: string): void {
  mkdirSync(dir, { recursive: true });
  for (const name of readdirSync(dir)) {
    if (name.endsWith(".tmp")) {
      rmSync(join(dir, name), { force: true });
    }
  }
}
