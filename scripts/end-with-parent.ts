/**
 * @file No child outlives its parent: a process that a script has started ends when the script has ended, however
 * that came about (kill -9 of the parent tells nobody). A thread of its own looks, so it works while the main
 * thread waits for a device.
 */

import { Worker } from "node:worker_threads";

/** End this process when the process that has started it is gone. */
export function endWithParent(): void {
  const watch = `
    const parent = ${process.ppid};
    setInterval(() => process.ppid === parent || process.kill(process.pid, "SIGKILL"), 500);
  `;
  new Worker(watch, { eval: true }).unref();
}
