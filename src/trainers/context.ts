/** @file What all stages of one run share: its folder, device, data, log and the wish to stop. */

import { appendFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Dataset } from "../data/dataset.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import type { Device } from "../runtime/device.ts";
import type { Group } from "../runtime/group.ts";
import type { Progress } from "./logging/progress.ts";
import type { StopRequest } from "./signals.ts";

export type Split = "train" | "validation";
export type Stage = "tokenizer" | "tokens" | "transformer" | "evaluation";

/** status.json. */
export interface Status {
  readonly state: "running" | "finished" | "failed" | "interrupted";
  readonly stage?: Stage;
  readonly step?: number;
  readonly steps?: number;
  readonly pid: number;
  /** ISO 8601 */
  readonly updated: string;
  readonly error?: string;
}

/** Everything a stage needs from its run. */
export interface RunContext {
  readonly dir: string;
  readonly seed: number;
  readonly device: Device;
  readonly progress: Progress;
  readonly stop: StopRequest;
  /** The data set of a split, opened on first use. */
  readonly dataset: (split: Split) => Promise<Dataset>;
  readonly warn: (message: string) => void;
  /** The processes that train together with this one. Only rank 0 writes files. */
  readonly group?: Group;
}

/** Whether this process writes the run's files. */
export const writes = ({ group }: RunContext): boolean => (group?.rank ?? 0) === 0;

/** Wait until all ranks are here: what rank 0 has written before, others can read afterwards. */
export async function meet({ group }: RunContext): Promise<void> {
  await group?.gather(null);
}

/** Write status.json. */
export function writeStatus(dir: string, status: Omit<Status, "pid" | "updated">): void {
  const full: Status = { ...status, pid: process.pid, updated: new Date().toISOString() };
  writeFileAtomic(join(dir, "status.json"), `${JSON.stringify(full, null, 2)}\n`);
}

/** Append one object to a file of lines that may hold clock times: timing.jsonl, events.jsonl. */
export function appendLine(dir: string, file: "timing.jsonl" | "events.jsonl", line: object): void {
  mkdirSync(dir, { recursive: true });
  appendFileSync(
    join(dir, file),
    `${JSON.stringify({ ...line, time: new Date().toISOString() })}\n`,
  );
}
