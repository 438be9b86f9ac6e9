/**
 * @file SQL over results, by DuckDB. Its package is an optional one (70 MB), so its few functions
 * that are used are declared here, and it is loaded when a query is asked.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../config/errors.ts";
import { parquet } from "./formats.ts";
import type { LongRow } from "./tables.ts";

interface Connection {
  run(sql: string): Promise<unknown>;
  runAndReadAll(sql: string): Promise<{
    deduplicatedColumnNames(): string[];
    getRowsJS(): unknown[][];
  }>;
  closeSync(): void;
}

interface DuckDb {
  readonly DuckDBInstance: {
    create(path: string): Promise<{ connect(): Promise<Connection>; closeSync(): void }>;
  };
}

// A name that the compiler does not look up: the package need not be installed.
const packageName: string = "@duckdb/node-api";

async function load(): Promise<DuckDb> {
  try {
    return (await import(packageName)) as DuckDb;
  } catch (error) {
    throw new UserError(
      `SQL needs the package ${packageName}, which cannot be loaded: ${(error as Error).message.split("\n")[0]}`,
      `npm install --no-save ${packageName}`,
    );
  }
}

/**
 * Ask a query of tables. Files can be read too, as in `from 'metrics.parquet'`.
 * @returns a record a row; numbers stay numbers, what is neither number nor text is written as text
 * @throws UserError when DuckDB is not installed or does not understand the query
 */
export async function queryTables(
  tables: { readonly [name: string]: readonly LongRow[] },
  query: string,
): Promise<LongRow[]> {
  const { DuckDBInstance } = await load();
  const dir = mkdtempSync(join(tmpdir(), "tessera-sql-"));
  const instance = await DuckDBInstance.create(":memory:");
  const connection = await instance.connect();
  try {
    for (const [name, rows] of Object.entries(tables)) {
      const file = join(dir, `${name}.parquet`);
      writeFileSync(file, parquet(rows));
      await connection.run(`create view ${name} as from '${file.replaceAll("'", "''")}'`);
    }
    const result = await connection.runAndReadAll(query).catch((error: unknown) => {
      throw new UserError(
        (error as Error).message,
        `the tables are ${Object.keys(tables).join(" and ")}; \`describe runs\` names columns`,
      );
    });
    const names = result.deduplicatedColumnNames();
    return result
      .getRowsJS()
      .map((row) => Object.fromEntries(row.map((value, c) => [names[c]!, plain(value)])));
  } finally {
    connection.closeSync();
    instance.closeSync();
    rmSync(dir, { recursive: true, force: true });
  }
}

function plain(value: unknown): string | number | null {
  if (value === null || typeof value === "number" || typeof value === "string") {
    return value;
  }
  if (typeof value === "bigint") {
    return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  }
  return value instanceof Date
    ? value.toISOString()
    : JSON.stringify(value, (_, inner: unknown) =>
        typeof inner === "bigint" ? String(inner) : inner,
      );
}
