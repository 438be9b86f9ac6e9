/**
 * @file SIGINT, SIGTERM and SIGUSR2 (a scheduler's warning that time is running out): the first asks the loops to stop at the next safe point, the second ends
 * the process at once (everything on disk is written atomically, so that is safe too).
 */

/**
 * Exit codes by shell convention: 128 + signal number. SIGUSR2 asks for a checkpoint and another
 * turn later, which is EX_TEMPFAIL of sysexits.h: schedulers requeue on it.
 */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143, SIGUSR2: 75 } as const;
export type StopSignal = keyof typeof EXIT_CODES;

export function exitCodeOf(signal: StopSignal): number {
  return EXIT_CODES[signal];
}

/** Thrown at a safe point after a stop was asked for. */
export class Interrupted extends Error {
  override name = "Interrupted";
  constructor(readonly signal: StopSignal) {
    super(`interrupted by ${signal}`);
  }
}

/** Whether a stop was asked for. */
export class StopRequest {
  #signal: StopSignal | undefined;

  get signal(): StopSignal | undefined {
    return this.#signal;
  }

  /** As if the signal had arrived. */
  request(signal: StopSignal): void {
    this.#signal ??= signal;
  }

  /** Throws `Interrupted` when a stop was asked for. */
  check(): void {
    if (this.#signal !== undefined) {
      throw new Interrupted(this.#signal);
    }
  }
}

/**
 * Listen to the signals until the returned function is called.
 * @param onFirst told once, to tell the user that the run will stop after the present step
 */
export function listenForSignals(
  stop: StopRequest,
  onFirst: (signal: StopSignal) => void,
): () => void {
  const listeners = (Object.keys(EXIT_CODES) as StopSignal[]).map((signal) => {
    const listener = () => {
      if (stop.signal !== undefined) {
        process.exit(exitCodeOf(signal));
      }
      stop.request(signal);
      onFirst(signal);
    };
    process.on(signal, listener);
    return () => process.off(signal, listener);
  });
  return () => {
    for (const remove of listeners) {
      remove();
    }
  };
}

/** Let the event loop turn, so that a signal that has arrived is seen. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
