/** @file Worker threads for rendering and decoding, behind one function a task. */

import { createRequire } from "node:module";
import { extname } from "node:path";
import { pathToFileURL } from "node:url";
import { Tinypool } from "tinypool";

/**
 * A fixed number of threads that run the exported functions of worker.ts. They start with the first
 * task and end with `close`. Results do not depend on which thread runs what.
 */
export class WorkerPool {
  readonly #workers: number;
  #pool: Tinypool | undefined;
  #closed = false;

  constructor(workers: number) {
    this.#workers = workers;
  }

  /** Run `worker.ts`'s export `name` on `task`; both must survive structured cloning. */
  async run<Result>(name: string, task: unknown): Promise<Result> {
    if (this.#closed) {
      throw new Error(`the worker pool is closed and cannot run ${name}`);
    }
    this.#pool ??= new Tinypool({
      filename: new URL(`./worker${extname(import.meta.url)}`, import.meta.url).href,
      minThreads: this.#workers,
      maxThreads: this.#workers,
      // Run from sources (tests), a thread needs the TypeScript loader that its parent has.
      execArgv: import.meta.url.endsWith(".ts") ? ["--import", typescriptLoader()] : [],
    });
    return (await this.#pool.run(task, { name })) as Result;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#pool?.destroy();
    this.#pool = undefined;
  }
}

function typescriptLoader(): string {
  return pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
}
