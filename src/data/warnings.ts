/** @file What the data room tells people: each thing once a process, through one replaceable sink. */

let sink = (message: string): void => {
  process.stderr.write(`${message}\n`);
};
const said = new Set<string>();

/** Say `message` unless it was said before; by default one line on standard error. */
export function warnOnce(message: string): void {
  if (!said.has(message)) {
    said.add(message);
    sink(message);
  }
}

/** Send warnings elsewhere (a progress display, a test); everything may be said again. Returns the old sink. */
export function setWarningSink(next: (message: string) => void): (message: string) => void {
  const previous = sink;
  sink = next;
  said.clear();
  return previous;
}
