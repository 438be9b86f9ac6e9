/**
 * @file A linear probe: multinomial logistic regression on frozen features, fitted to convergence.
 *
 *   J(W, b) = (1/n) Σ -log softmax(W x + b)[y] + (λ/2) |W|²
 *
 * The objective is convex, so its optimum does not depend on a learning rate, an order of batches or
 * a random start, and two probes differ by their features alone. Fitted by L-BFGS (Nocedal & Wright,
 * "Numerical Optimization", algorithm 7.5) with a backtracking line search, full batch, in float64.
 */

import { UserError } from "../config/errors.ts";

/** Features with their labels: n rows of `dimensions` values. */
export interface ProbeData {
  readonly features: Float64Array;
  /** n labels in [0, classes). */
  readonly labels: Int32Array;
  readonly dimensions: number;
}

/** A fitted probe. */
export interface Probe {
  readonly classes: number;
  readonly dimensions: number;
  /** [classes, dimensions + 1]: weights of the standardised features, then the bias. */
  readonly weights: Float64Array;
  readonly mean: Float64Array;
  readonly scale: Float64Array;
  readonly l2: number;
}

/** Penalties that `fitProbe` chooses from, from strong to weak. */
export const l2Grid = [1, 0.1, 0.01, 0.001, 0.0001] as const;

/** The share of the fitting clips held out to choose the penalty: every fifth. */
const holdOutEvery = 5;

const maxIterations = 300;
const memory = 10;
/** Converged when no partial derivative is larger. */
const tolerance = 1e-4;

/** Per-feature mean and 1 / deviation; a constant feature gets scale 0 and so no say. */
function standardisation(data: ProbeData): { mean: Float64Array; scale: Float64Array } {
  const { features, dimensions: d } = data;
  const n = features.length / d;
  const mean = new Float64Array(d);
  const variance = new Float64Array(d);
  for (let i = 0; i < features.length; i++) {
    mean[i % d]! += features[i]! / n;
  }
  for (let i = 0; i < features.length; i++) {
    variance[i % d]! += (features[i]! - mean[i % d]!) ** 2 / n;
  }
  return { mean, scale: variance.map((v) => (v > 1e-12 ? 1 / Math.sqrt(v) : 0)) };
}

function standardise(data: ProbeData, mean: Float64Array, scale: Float64Array): Float64Array {
  const d = data.dimensions;
  return data.features.map((value, i) => (value - mean[i % d]!) * scale[i % d]!);
}

/** Writes class log-probabilities of row `row` of standardised features into `out`. */
function logProbabilities(
  weights: Float64Array,
  features: Float64Array,
  row: number,
  d: number,
  out: Float64Array,
): void {
  let top = Number.NEGATIVE_INFINITY;
  for (let k = 0; k < out.length; k++) {
    let logit = weights[k * (d + 1) + d]!;
    for (let i = 0; i < d; i++) {
      logit += weights[k * (d + 1) + i]! * features[row * d + i]!;
    }
    out[k] = logit;
    top = Math.max(top, logit);
  }
  let sum = 0;
  for (const logit of out) {
    sum += Math.exp(logit - top);
  }
  const normaliser = top + Math.log(sum);
  for (let k = 0; k < out.length; k++) {
    out[k]! -= normaliser;
  }
}

/** The value of J; its gradient goes into `gradient`. */
function objective(
  weights: Float64Array,
  features: Float64Array,
  labels: Int32Array,
  classes: number,
  l2: number,
  gradient: Float64Array,
): number {
  const n = labels.length;
  const d = features.length / n;
  const logs = new Float64Array(classes);
  gradient.fill(0);
  let loss = 0;
  for (let row = 0; row < n; row++) {
    logProbabilities(weights, features, row, d, logs);
    loss -= logs[labels[row]!]! / n;
    for (let k = 0; k < classes; k++) {
      const slope = (Math.exp(logs[k]!) - (k === labels[row] ? 1 : 0)) / n;
      const at = k * (d + 1);
      for (let i = 0; i < d; i++) {
        gradient[at + i]! += slope * features[row * d + i]!;
      }
      gradient[at + d]! += slope;
    }
  }
  for (let k = 0; k < classes; k++) {
    for (let i = k * (d + 1); i < k * (d + 1) + d; i++) {
      loss += 0.5 * l2 * weights[i]! ** 2;
      gradient[i]! += l2 * weights[i]!;
    }
  }
  return loss;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) {
    sum += a[i]! * b[i]!;
  }
  return sum;
}

interface Pair {
  readonly step: Float64Array;
  readonly change: Float64Array;
  readonly curvature: number;
}

/** The quasi-Newton direction -H g by the two-loop recursion. */
function direction(gradient: Float64Array, pairs: readonly Pair[]): Float64Array {
  const q = gradient.map((g) => -g);
  const alphas: number[] = [];
  for (const { step, change, curvature } of pairs.toReversed()) {
    const alpha = dot(step, q) / curvature;
    alphas.push(alpha);
    change.forEach((y, i) => {
      q[i]! -= alpha * y;
    });
  }
  const last = pairs.at(-1);
  if (last) {
    const scale = last.curvature / dot(last.change, last.change);
    q.forEach((value, i) => {
      q[i] = value * scale;
    });
  }
  for (const { step, change, curvature } of pairs) {
    const beta = dot(change, q) / curvature;
    const alpha = alphas.pop()!;
    step.forEach((s, i) => {
      q[i]! += s * (alpha - beta);
    });
  }
  return q;
}

/** Minimise J from `start`. Deterministic; stops at a small gradient or after `maxIterations`. */
function minimise(
  start: Float64Array,
  features: Float64Array,
  labels: Int32Array,
  classes: number,
  l2: number,
): Float64Array {
  let weights = start;
  let gradient = new Float64Array(start.length);
  let loss = objective(weights, features, labels, classes, l2, gradient);
  const pairs: Pair[] = [];
  for (let iteration = 0; iteration < maxIterations; iteration++) {
    if (gradient.every((g) => Math.abs(g) < tolerance)) {
      break;
    }
    const towards = direction(gradient, pairs);
    const slope = dot(gradient, towards);
    let length = pairs.length === 0 ? Math.min(1, 1 / Math.sqrt(dot(gradient, gradient))) : 1;
    let tried: Float64Array;
    let triedLoss: number;
    const triedGradient = new Float64Array(start.length);
    do {
      tried = weights.map((w, i) => w + length * towards[i]!);
      triedLoss = objective(tried, features, labels, classes, l2, triedGradient);
      length /= 2;
    } while (triedLoss > loss + 2e-4 * length * slope && length > 1e-12);
    if (!(triedLoss < loss)) {
      break; // No progress is left in float64.
    }
    const step = tried.map((w, i) => w - weights[i]!);
    const change = triedGradient.map((g, i) => g - gradient[i]!);
    const curvature = dot(step, change);
    if (curvature > 1e-14) {
      pairs.push({ step, change, curvature });
      if (pairs.length > memory) {
        pairs.shift();
      }
    }
    weights = tried;
    gradient = triedGradient;
    loss = triedLoss;
  }
  return weights;
}

/** The rows of `data` that `keep` names. */
function rows(data: ProbeData, keep: (row: number) => boolean): ProbeData {
  const d = data.dimensions;
  const kept = Array.from(data.labels.keys()).filter(keep);
  const features = new Float64Array(kept.length * d);
  kept.forEach((row, i) => {
    features.set(data.features.subarray(row * d, (row + 1) * d), i * d);
  });
  return { features, labels: Int32Array.from(kept, (row) => data.labels[row]!), dimensions: d };
}

function check(data: ProbeData, classes: number): void {
  if (data.features.length !== data.labels.length * data.dimensions) {
    throw new RangeError(
      `${data.labels.length} rows of ${data.dimensions} features hold ${data.labels.length * data.dimensions} values, got ${data.features.length}`,
    );
  }
  const stray = data.labels.find((label) => !(label >= 0 && label < classes));
  if (stray !== undefined) {
    throw new UserError(
      `a probe needs a class for every clip, got label ${stray} of ${classes} classes`,
      "use a data set with classes, or take the probe out of `evals`",
    );
  }
  if (!data.features.every((value) => Number.isFinite(value))) {
    throw new UserError(
      "a probe's features hold values that are not finite",
      "a tokenizer whose training diverged makes NaN codes: look at its loss curve",
    );
  }
}

/** Fit with one given penalty, from zero weights or from `start`. */
export function fitProbeWith(
  data: ProbeData,
  classes: number,
  l2: number,
  start?: Float64Array,
): Probe {
  check(data, classes);
  const { mean, scale } = standardisation(data);
  const features = standardise(data, mean, scale);
  const from = start ?? new Float64Array(classes * (data.dimensions + 1));
  const weights = minimise(from, features, data.labels, classes, l2);
  return { classes, dimensions: data.dimensions, weights, mean, scale, l2 };
}

/**
 * Fit a probe, the penalty chosen from `l2Grid`: four fifths of the clips fit each candidate (from
 * strong to weak, each starting where the last one ended) and every fifth clip judges it by log loss;
 * the search ends at the first that is not better, and the best is fitted again on all clips.
 */
export function fitProbe(data: ProbeData, classes: number): Probe {
  check(data, classes);
  if (data.labels.length < 2 * holdOutEvery) {
    throw new UserError(
      `a probe needs at least ${2 * holdOutEvery} clips to fit, got ${data.labels.length}`,
      "raise the suite's `train_clips`, or use a larger data set",
    );
  }
  const fitted = rows(data, (row) => row % holdOutEvery !== holdOutEvery - 1);
  const judged = rows(data, (row) => row % holdOutEvery === holdOutEvery - 1);
  let best = { l2: l2Grid[0] as number, loss: Number.POSITIVE_INFINITY };
  let start: Float64Array | undefined;
  for (const l2 of l2Grid) {
    const probe = fitProbeWith(fitted, classes, l2, start);
    start = probe.weights;
    const { loss } = probeAccuracy(probe, judged);
    if (!(loss < best.loss)) {
      break; // Overfitting has begun; weaker penalties only go further, and cost the most time.
    }
    best = { l2, loss };
  }
  return fitProbeWith(data, classes, best.l2);
}

/** Share of clips whose most likely class is theirs (ties to the lower class), and the mean log loss in nats. */
export function probeAccuracy(probe: Probe, data: ProbeData): { top1: number; loss: number } {
  check(data, probe.classes);
  if (data.dimensions !== probe.dimensions) {
    throw new RangeError(`the probe takes ${probe.dimensions} features, got ${data.dimensions}`);
  }
  const features = standardise(data, probe.mean, probe.scale);
  const logs = new Float64Array(probe.classes);
  let right = 0;
  let loss = 0;
  for (let row = 0; row < data.labels.length; row++) {
    logProbabilities(probe.weights, features, row, probe.dimensions, logs);
    right += logs.indexOf(Math.max(...logs)) === data.labels[row] ? 1 : 0;
    loss -= logs[data.labels[row]!]!;
  }
  return { top1: right / data.labels.length, loss: loss / data.labels.length };
}

/**
 * What guessing gets: the share of `judged` that is of the class most frequent in `fitted`. With
 * balanced classes this is 1 / classes.
 */
export function chanceLevel(fitted: Int32Array, judged: Int32Array, classes: number): number {
  const counts = new Float64Array(classes);
  for (const label of fitted) {
    counts[label]! += 1;
  }
  const common = counts.indexOf(Math.max(...counts));
  const share = judged.filter((label) => label === common).length / judged.length;
  return Math.max(share, 1 / classes);
}
