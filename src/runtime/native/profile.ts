/** @file The table that TESSERA_PROFILE=1 prints: where a compiled function's time went. */

import type { Plan } from "./program.ts";

/** Steps listed one by one. */
const LISTED = 40;

interface Row {
  readonly name: string;
  time: number;
  count: number;
}

/** Print milliseconds a call, by kind of step and by step, to standard error. */
export function printProfile(
  name: string,
  plan: Plan,
  kinds: readonly string[],
  milliseconds: readonly number[],
  calls: number,
): void {
  if (calls === 0) {
    return;
  }
  const { codes, labels } = flattened(plan);
  const byKind = new Map<string, Row>();
  milliseconds.forEach((time, i) => {
    const kind = kinds[codes[i]!]!;
    const row = byKind.get(kind) ?? { name: kind, time: 0, count: 0 };
    row.time += time / calls;
    row.count += 1;
    byKind.set(kind, row);
  });
  // A loop's own time holds that of its body's steps.
  const total =
    milliseconds.slice(0, plan.labels.length).reduce((sum, time) => sum + time, 0) / calls;
  const line = (time: number, text: string) => `${time.toFixed(3).padStart(10)} ms  ${text}`;
  const lines = [
    `profile of ${name}: ${total.toFixed(2)} ms a call, ${calls} calls, arena ${(plan.arena / 2 ** 20).toFixed(1)} MiB`,
    ...[...byKind.values()]
      .toSorted((a, b) => b.time - a.time)
      .map((row) => line(row.time, `${row.name} × ${row.count}`)),
    ...milliseconds
      .map((time, i) => ({ time: time / calls, text: `${kinds[codes[i]!]} ${labels[i]}` }))
      .toSorted((a, b) => b.time - a.time)
      .slice(0, LISTED)
      .map(({ time, text }) => line(time, text)),
  ];
  process.stderr.write(`${lines.join("\n")}\n`);
}

/** Codes and labels of a program's steps, then those of its loops' bodies: the order of times. */
function flattened(plan: Plan): { codes: number[]; labels: string[] } {
  const codes: number[] = [];
  for (let at = 0; at < plan.ops.length; ) {
    const [code, inputs, outputs, ints] = plan.ops.subarray(at, at + 4);
    codes.push(code!);
    at += 5 + inputs! + outputs! + ints!;
  }
  const labels = [...plan.labels];
  for (const body of plan.bodies.map(flattened)) {
    codes.push(...body.codes);
    labels.push(...body.labels);
  }
  return { codes, labels };
}
