/** @file Worker threads for rendering and decoding, behind one function a task. */

import { extname } from "node:path";
import { Tinypool } from "tinypool";
import { sourceArguments } from "../runtime/own-source.ts";

/** A pool of some number of threads, shared by all that use it at a time. */
interface Shared {
  readonly pool: Tinypool;
  users: number;
}

const pools = new Map<number, Shared>();

/**
 * Threads that run the exported functions of worker.ts. Pools of one size share their threads: the
 * splits of a data set, opened and closed in turn, start them once. Results do not depend on which
 * thread runs what.
 */
export class WorkerPool {
  readonly #workers: number;
  #shared: Shared | undefined;
  #closed = false;

  /** @param workers number of threads, at least 1; they start with the first task */
  constructor(workers: number) {
    this.#workers = workers;
  }

  /** Run `worker.ts`'s export `name` on `task`; both must survive structured cloning. */
  async run<Result>(name: string, task: unknown): Promise<Result> {
    if (this.#closed) {
      throw new Error(`the worker pool is closed and cannot run ${name}`);
    }
    this.#shared ??= share(this.#workers);
    return (await this.#shared.pool.run(task, { name })) as Result;
  }

  /** Give the threads up. They end with their last user; tasks under way then fail. */
  async close(): Promise<void> {
    this.#closed = true;
    const shared = this.#shared;
    this.#shared = undefined;
    if (shared) {
      shared.users -= 1;
      if (shared.users === 0) {
        pools.delete(this.#workers);
        await shared.pool.destroy();
      }
    }
  }
}

function share(workers: number): Shared {
  const shared = pools.get(workers) ?? { pool: start(workers), users: 0 };
  pools.set(workers, shared);
  shared.users += 1;
  return shared;
}

function start(workers: number): Tinypool {
  return new Tinypool({
    filename: new URL(`./worker${extname(import.meta.url)}`, import.meta.url).href,
    minThreads: workers,
    maxThreads: workers,
    execArgv: sourceArguments(import.meta.url),
  });
}
