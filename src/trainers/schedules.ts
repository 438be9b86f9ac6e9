/**
 * @file Learning-rate schedules: a linear warm-up, then cosine (Loshchilov & Hutter 2017, "SGDR",
 * without restarts), linear or no decay. Pure functions of the step, computed on the host and
 * passed to the compiled step as data.
 */

/** Shapes of the decay after the warm-up. */
export type ScheduleName = "cosine" | "linear" | "constant";

export interface Schedule {
  /** The peak learning rate. */
  readonly lr: number;
  /** The last learning rate as a share of the peak, in [0, 1]; without effect when constant. */
  readonly final_lr_ratio: number;
  readonly schedule: ScheduleName;
  /** Steps of linear warm-up; the first step already has lr / warmup. */
  readonly warmup: number;
  /** Steps of the whole stage. */
  readonly steps: number;
}

/**
 * The learning rate of one step.
 * @param step optimizer steps done before this one, 0 <= step < steps
 */
export function learningRate(schedule: Schedule, step: number): number {
  const { lr, final_lr_ratio: ratio, warmup, steps } = schedule;
  if (step < warmup) {
    return (lr * (step + 1)) / warmup;
  }
  const done = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  switch (schedule.schedule) {
    case "constant":
      return lr;
    case "linear":
      return lr * (1 - (1 - ratio) * done);
    case "cosine":
      return lr * (ratio + ((1 - ratio) * (1 + Math.cos(Math.PI * done))) / 2);
  }
}

/**
 * The decay of an exponential moving average at one step. It rises from 0.1 so that the average of
 * a short run is not the initial values (the ramp of Tan & Le's EfficientNet code and of EDM).
 */
export function emaDecay(decay: number, step: number): number {
  return Math.min(decay, (1 + step) / (10 + step));
}
