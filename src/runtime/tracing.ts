/**
 * @file The trace under way, if any: what separates recording a graph from computing at once.
 * Tracing is synchronous, so one module-level variable is enough.
 */

import type { GraphTracer } from "./graph.ts";

let current: GraphTracer | undefined;

/** The tracer of the function being traced, or undefined when operations compute at once. */
export function activeTracer(): GraphTracer | undefined {
  return current;
}

/** Whether a trace is under way for a device that has this kernel of its own. */
export function hasKernel(kernel: string): boolean {
  return current?.features.has(kernel) ?? false;
}

/** Run `body` with operations recorded by `tracer`. */
export function whileTracing<T>(tracer: GraphTracer, body: () => T): T {
  if (current) {
    throw new Error(
      "a compiled function was called while another is being traced: call it outside",
    );
  }
  current = tracer;
  try {
    return body();
  } finally {
    current = undefined;
  }
}
