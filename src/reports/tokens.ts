/**
 * @file How often each code is used, counted from the token cache of a run (Arrow IPC: one row a
 * clip, column `ids` with its N·F sub-ids, the sub-id running fastest).
 */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface TokenUsage {
  readonly split: string;
  /** Tokens counted. */
  readonly tokens: number;
  /** For each sub-vocabulary, the uses of each of its codes. */
  readonly counts: readonly (readonly number[])[];
}

/**
 * Count the codes of a run's cached tokens, of the validation split if it is there.
 * @param factors sizes of the sub-vocabularies; when unknown, the cache's metadata `factors` or one
 *   vocabulary up to the largest id
 * @returns undefined when the run has no readable token cache
 */
export async function tokenUsage(
  dir: string,
  factors?: readonly number[],
): Promise<TokenUsage | undefined> {
  for (const split of ["validation", "train"]) {
    const path = join(dir, "tokens", `${split}.arrow`);
    if (!existsSync(path)) {
      continue;
    }
    try {
      return { split, ...(await countIds(readFileSync(path), factors)) };
    } catch {
      // A cache that is being written has no footer yet; the page goes on without this picture.
    }
  }
  return undefined;
}

async function countIds(
  bytes: Uint8Array,
  given: readonly number[] | undefined,
): Promise<Omit<TokenUsage, "split">> {
  const { tableFromIPC } = await import("apache-arrow");
  const table = tableFromIPC(bytes);
  const column = table.getChild("ids");
  if (column === null) {
    throw new Error('the token cache has no column "ids"');
  }
  const rows = Array.from(column, (row) => Array.from(row as Iterable<number>));
  const stated: unknown = JSON.parse(table.schema.metadata.get("factors") ?? "null");
  const largest = rows.reduce((most, row) => row.reduce((a, b) => Math.max(a, b), most), 0);
  const factors = given ?? (Array.isArray(stated) ? (stated as number[]) : [largest + 1]);
  const counts = factors.map((size) => Array.from({ length: size }, () => 0));
  let tokens = 0;
  for (const row of rows) {
    row.forEach((id, index) => {
      counts[index % factors.length]![id]! += 1;
    });
    tokens += row.length / factors.length;
  }
  return { tokens, counts };
}
