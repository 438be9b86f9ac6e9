/**
 * @file Progress for people: a bar with the step rate and the time left on a terminal, a plain line
 * every ten seconds elsewhere. The time left counts the whole run, stages to come included, as far
 * as it can be told.
 */

import { Presets, SingleBar } from "cli-progress";

const PLAIN_INTERVAL = 10_000;

/** Where lines go. `terminal` allows a bar that redraws itself. */
export interface Output {
  readonly terminal: boolean;
  line(text: string): void;
}

/** Standard error: results of commands own standard output. */
export function standardOutput(): Output {
  return {
    terminal: process.stderr.isTTY === true && process.env["CI"] === undefined,
    line: (text) => void process.stderr.write(`${text}\n`),
  };
}

/** "42 s", "3 min 20 s", "2 h 05 min". */
export function formatDuration(seconds: number): string {
  const total = Math.max(0, Math.round(seconds));
  if (total < 60) {
    return `${total} s`;
  }
  const minutes = Math.floor(total / 60);
  if (minutes < 60) {
    return `${minutes} min ${String(total % 60).padStart(2, "0")} s`;
  }
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** The parts of a run and how long each is expected to take beside the others. */
export interface Part {
  readonly name: string;
  readonly total: number;
}

/** Follows a run through its parts. */
export class Progress {
  #parts: readonly Part[] = [];
  readonly #rates = new Map<string, number>();
  #bar: SingleBar | undefined;
  #part: Part | undefined;
  #begin = 0;
  #beginDone = 0;
  #lastLine = 0;

  constructor(
    readonly output: Output,
    readonly now: () => number = () => performance.now(),
  ) {}

  /** Say what the whole run consists of. */
  plan(parts: readonly Part[]): void {
    this.#parts = parts;
  }

  /** Begin a part, `done` of whose units an earlier process has already finished. */
  start(name: string, done: number): void {
    this.stop();
    this.#part = this.#parts.find((part) => part.name === name);
    this.#begin = this.now();
    this.#beginDone = done;
    this.#lastLine = this.#begin;
    if (this.output.terminal && this.#part) {
      this.#bar = new SingleBar(
        {
          format: `${name.padEnd(12)} {bar} {value}/{total}  {rate}  {note}  left {left}`,
          hideCursor: true,
          stream: process.stderr,
          etaBuffer: 1,
        },
        Presets.shades_classic,
      );
      this.#bar.start(this.#part.total, done, { rate: "", note: "", left: "" });
    }
  }

  /**
   * @param done units of the present part that are done
   * @param note a few words: the loss
   */
  update(done: number, note: string): void {
    const part = this.#part;
    if (part === undefined) {
      return;
    }
    const elapsed = (this.now() - this.#begin) / 1000;
    const rate = (done - this.#beginDone) / Math.max(elapsed, 1e-9);
    this.#rates.set(part.name, rate);
    const shown = { rate: `${formatRate(rate)}/s`, note, left: this.#left(part, done) };
    if (this.#bar) {
      this.#bar.update(done, shown);
    } else if (this.now() - this.#lastLine >= PLAIN_INTERVAL || done === part.total) {
      this.#lastLine = this.now();
      this.output.line(
        `${part.name} ${done}/${part.total}  ${shown.rate}  ${note}  left ${shown.left}`,
      );
    }
  }

  /** What goes on inside the present unit, where units are long. */
  note(text: string): void {
    if (this.#bar) {
      this.#bar.update({ note: text });
    } else if (this.now() - this.#lastLine >= PLAIN_INTERVAL) {
      this.#lastLine = this.now();
      this.output.line(text);
    }
  }

  /** A line that stays, above the bar. */
  say(text: string): void {
    if (this.#bar) {
      process.stderr.write("\r\u001b[K");
    }
    this.output.line(text);
  }

  /** End the present part. */
  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
    this.#part = undefined;
  }

  /** Time left of the run: a "+" stands for parts whose speed is not known yet. */
  #left(part: Part, done: number): string {
    const rate = this.#rates.get(part.name) ?? 0;
    if (rate <= 0) {
      return "?";
    }
    const rest = (part.total - done) / rate;
    const later = this.#parts.slice(this.#parts.indexOf(part) + 1).some((next) => next.total > 0);
    return formatDuration(rest) + (later ? " + later stages" : "");
  }
}

function formatRate(rate: number): string {
  return rate >= 100 ? rate.toFixed(0) : rate >= 10 ? rate.toFixed(1) : rate.toFixed(2);
}
