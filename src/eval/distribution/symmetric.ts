/**
 * @file Dense symmetric matrices in float64, by the native engine's kernels where it is built (their sums
 * have another order, so last digits differ) and else as fast as plain JavaScript goes: products in
 * tiles of 4 × 4 that stay in registers, a pivoted Cholesky factorisation (Higham 2002, §10.3; LAPACK's dpstrf),
 * and eigenvalues by Householder tridiagonalisation and implicit QL (Golub & Van Loan, §8.3), each
 * update of the matrix fused with the product that the next step needs. All matrices are row-major.
 */

import { type Addon, findAddon } from "../../runtime/native/addon.ts";

let compiled = true;

/** The compiled functions, where the native engine is built. */
function matrices(): Pick<Addon, "product64" | "tridiagonal64"> | undefined {
  const { addon } = compiled ? findAddon() : {};
  return addon?.product64 ? addon : undefined; // one built from older sources lacks them
}

/** Use the compiled functions (where there are any) or plain JavaScript: the tests compare them. */
export function useCompiled(use: boolean): void {
  compiled = use;
}

/** Columns factored before the rest of the matrix is updated. */
const panel = 64;
/** Length of the dot products that are summed at once: their operands fit the cache. */
const strip = 256;

/**
 * C[i, j] += sign · Σ_k A[i, k] B[j, k] for i in [i0, i1), j in [j0, min(j1, i + 1 or all)).
 * @param lower only tiles that touch j <= i
 * @param from the first k with a non-zero A[i, k], by row of A; 0 when left out
 */
export function addProduct(
  c: Float64Array,
  ldc: number,
  a: Float64Array,
  lda: number,
  b: Float64Array,
  ldb: number,
  rows: readonly [number, number],
  columns: readonly [number, number],
  inner: readonly [number, number],
  options: { readonly sign?: 1 | -1; readonly lower?: boolean; readonly from?: boolean } = {},
): void {
  const { sign = 1, lower = false, from = false } = options;
  const native = matrices();
  if (native) {
    const [low, first] = [Number(lower), Number(from)];
    native.product64(c, a, b, Float64Array.of(ldc, lda, ldb, ...rows, ...columns, ...inner, sign, low, first)); // biome-ignore format: one call
    return;
  }
  for (let k0 = inner[0]; k0 < inner[1]; k0 += strip) {
    const k1 = Math.min(inner[1], k0 + strip);
    for (let i = rows[0]; i < rows[1]; i += 4) {
      const height = Math.min(4, rows[1] - i);
      const start = from ? Math.max(k0, i) : k0;
      if (start >= k1) {
        continue;
      }
      const last = lower ? Math.min(columns[1], i + height) : columns[1];
      for (let j = columns[0]; j < last; j += 4) {
        const width = Math.min(4, columns[1] - j);
        if (height === 4 && width === 4) {
          tile(c, ldc, a, lda, b, ldb, i, j, start, k1, sign);
        } else {
          for (let p = i; p < i + height; p++) {
            for (let q = j; q < j + width; q++) {
              let sum = 0;
              for (let k = start; k < k1; k++) {
                sum += a[p * lda + k]! * b[q * ldb + k]!;
              }
              c[p * ldc + q]! += sign * sum;
            }
          }
        }
      }
    }
  }
}

/** One tile of 4 × 4 of `addProduct`. */
function tile(
  c: Float64Array,
  ldc: number,
  a: Float64Array,
  lda: number,
  b: Float64Array,
  ldb: number,
  i: number,
  j: number,
  k0: number,
  k1: number,
  sign: number,
): void {
  let [s00, s01, s02, s03] = [0, 0, 0, 0];
  let [s10, s11, s12, s13] = [0, 0, 0, 0];
  let [s20, s21, s22, s23] = [0, 0, 0, 0];
  let [s30, s31, s32, s33] = [0, 0, 0, 0];
  const [a0, a1, a2, a3] = [i * lda, (i + 1) * lda, (i + 2) * lda, (i + 3) * lda];
  const [b0, b1, b2, b3] = [j * ldb, (j + 1) * ldb, (j + 2) * ldb, (j + 3) * ldb];
  for (let k = k0; k < k1; k++) {
    const x0 = a[a0 + k]!;
    const x1 = a[a1 + k]!;
    const x2 = a[a2 + k]!;
    const x3 = a[a3 + k]!;
    const y0 = b[b0 + k]!;
    s00 += x0 * y0;
    s10 += x1 * y0;
    s20 += x2 * y0;
    s30 += x3 * y0;
    const y1 = b[b1 + k]!;
    s01 += x0 * y1;
    s11 += x1 * y1;
    s21 += x2 * y1;
    s31 += x3 * y1;
    const y2 = b[b2 + k]!;
    s02 += x0 * y2;
    s12 += x1 * y2;
    s22 += x2 * y2;
    s32 += x3 * y2;
    const y3 = b[b3 + k]!;
    s03 += x0 * y3;
    s13 += x1 * y3;
    s23 += x2 * y3;
    s33 += x3 * y3;
  }
  const [c0, c1, c2, c3] = [i * ldc + j, (i + 1) * ldc + j, (i + 2) * ldc + j, (i + 3) * ldc + j];
  c[c0]! += sign * s00;
  c[c0 + 1]! += sign * s01;
  c[c0 + 2]! += sign * s02;
  c[c0 + 3]! += sign * s03;
  c[c1]! += sign * s10;
  c[c1 + 1]! += sign * s11;
  c[c1 + 2]! += sign * s12;
  c[c1 + 3]! += sign * s13;
  c[c2]! += sign * s20;
  c[c2 + 1]! += sign * s21;
  c[c2 + 2]! += sign * s22;
  c[c2 + 3]! += sign * s23;
  c[c3]! += sign * s30;
  c[c3 + 1]! += sign * s31;
  c[c3 + 2]! += sign * s32;
  c[c3 + 3]! += sign * s33;
}

/** A positive semi-definite matrix as P L Lᵀ Pᵀ. */
export interface PivotedCholesky {
  /** L [n, n] row-major, of which the first `rank` columns count. */
  readonly factor: Float64Array;
  /** Row i of L belongs to row `order[i]` of the matrix. */
  readonly order: Int32Array;
  readonly rank: number;
}

/** Factor a copy of a positive semi-definite n × n matrix; what is left at the end is rounding. */
export function pivotedCholesky(matrix: Float64Array, n: number): PivotedCholesky {
  const a = matrix.slice();
  const order = Int32Array.from({ length: n }, (_, i) => i);
  const diagonal = Float64Array.from({ length: n }, (_, i) => a[i * n + i]!);
  const largest = diagonal.reduce((top, value) => Math.max(top, value), 0);
  const least = n * Number.EPSILON * largest;
  let rank = 0;
  for (let k0 = 0; k0 < n; k0 += panel) {
    const k1 = Math.min(n, k0 + panel);
    for (let k = k0; k < k1; k++) {
      let pivot = k;
      for (let i = k + 1; i < n; i++) {
        pivot = diagonal[i]! > diagonal[pivot]! ? i : pivot;
      }
      if (!(diagonal[pivot]! > least)) {
        return { factor: a, order, rank };
      }
      swap(a, n, order, diagonal, k, pivot);
      const root = Math.sqrt(diagonal[k]!);
      a[k * n + k] = root;
      for (let i = k + 1; i < n; i++) {
        let sum = a[i * n + k]!;
        for (let j = k0; j < k; j++) {
          sum -= a[i * n + j]! * a[k * n + j]!;
        }
        const value = sum / root;
        a[i * n + k] = value;
        diagonal[i]! -= value * value;
      }
      rank = k + 1;
    }
    const rest = [k1, n] as const;
    addProduct(a, n, a, n, a, n, rest, rest, [k0, k1], { sign: -1, lower: true });
  }
  return { factor: a, order, rank };
}

/** Exchange rows and columns k and p of the lower triangle. */
function swap(
  a: Float64Array,
  n: number,
  order: Int32Array,
  diagonal: Float64Array,
  k: number,
  p: number,
): void {
  if (p === k) {
    return;
  }
  const exchange = (i: number, j: number): void => {
    const value = a[i]!;
    a[i] = a[j]!;
    a[j] = value;
  };
  for (let j = 0; j < k; j++) {
    exchange(k * n + j, p * n + j);
  }
  for (let i = k + 1; i < p; i++) {
    exchange(i * n + k, p * n + i);
  }
  for (let i = p + 1; i < n; i++) {
    exchange(i * n + k, i * n + p);
  }
  exchange(k * n + k, p * n + p);
  [order[k], order[p]] = [order[p]!, order[k]!];
  [diagonal[k], diagonal[p]] = [diagonal[p]!, diagonal[k]!];
}

/** The eigenvalues of a symmetric n × n matrix, whose lower triangle is read and destroyed. Unsorted. */
export function symmetricEigenvalues(a: Float64Array, n: number): Float64Array {
  const d = new Float64Array(n);
  const e = new Float64Array(n);
  const native = matrices();
  if (native) {
    native.tridiagonal64(a, d, e);
  } else {
    tridiagonalise(a, n, d, e);
  }
  implicitQl(d, e);
  return d;
}

/**
 * Householder reduction from the last row up: d holds the diagonal, e[i] what couples i - 1 and i.
 * Step i needs A - u pᵀ - p uᵀ of the step before and its product with the next u; one pass does both.
 */
function tridiagonalise(a: Float64Array, n: number, d: Float64Array, e: Float64Array): void {
  const u = new Float64Array(n);
  const p = new Float64Array(n);
  const next = new Float64Array(n);
  const q = new Float64Array(n);
  let pending = false; // u and p hold an update that rows up to i still lack
  for (let i = n - 1; i >= 1; i--) {
    const row = i * n;
    if (pending) {
      for (let k = 0; k <= i; k++) {
        a[row + k]! -= u[i]! * p[k]! + p[i]! * u[k]!;
      }
    }
    d[i] = a[row + i]!;
    let norm = 0;
    for (let k = 0; k < i; k++) {
      norm = Math.max(norm, Math.abs(a[row + k]!));
    }
    if (norm === 0) {
      e[i] = 0;
      if (pending) {
        for (let j = 0; j < i; j++) {
          for (let k = 0; k <= j; k++) {
            a[j * n + k]! -= u[j]! * p[k]! + p[j]! * u[k]!;
          }
        }
        pending = false;
      }
      continue;
    }
    let squares = 0;
    for (let k = 0; k < i; k++) {
      next[k] = a[row + k]! / norm;
      squares += next[k]! * next[k]!;
    }
    const f = next[i - 1]!;
    const g = f >= 0 ? -Math.sqrt(squares) : Math.sqrt(squares);
    e[i] = norm * g;
    const h = squares - f * g; // |u|² / 2
    next[i - 1] = f - g;
    // Update what is left and multiply it by the new vector, row by row of the lower triangle.
    q.fill(0, 0, i);
    for (let j = 0; j < i; j++) {
      const at = j * n;
      const [uj, pj, xj] = [u[j]!, p[j]!, next[j]!];
      let sum = 0;
      if (pending) {
        for (let k = 0; k < j; k++) {
          const value = a[at + k]! - (uj * p[k]! + pj * u[k]!);
          a[at + k] = value;
          sum += value * next[k]!;
          q[k]! += value * xj;
        }
        a[at + j]! -= 2 * uj * pj;
      } else {
        for (let k = 0; k < j; k++) {
          const value = a[at + k]!;
          sum += value * next[k]!;
          q[k]! += value * xj;
        }
      }
      q[j]! += sum + a[at + j]! * xj;
    }
    let dot = 0;
    for (let k = 0; k < i; k++) {
      q[k]! /= h;
      dot += q[k]! * next[k]!;
    }
    const half = dot / (2 * h);
    for (let k = 0; k < i; k++) {
      u[k] = next[k]!;
      p[k] = q[k]! - half * next[k]!;
    }
    pending = true;
  }
  d[0] = pending ? a[0]! - 2 * u[0]! * p[0]! : a[0]!;
}

/** Eigenvalues of a tridiagonal matrix, in place of its diagonal d; e[i] couples i - 1 and i. */
function implicitQl(d: Float64Array, e: Float64Array): void {
  const n = d.length;
  e.copyWithin(0, 1);
  e[n - 1] = 0;
  for (let l = 0; l < n; l++) {
    for (let turn = 0; ; turn++) {
      let m = l;
      while (m < n - 1) {
        const scale = Math.abs(d[m]!) + Math.abs(d[m + 1]!);
        if (Math.abs(e[m]!) <= Number.EPSILON * scale) {
          break;
        }
        m += 1;
      }
      if (m === l) {
        break;
      }
      if (turn === 100) {
        throw new Error("the eigenvalues of a covariance did not converge");
      }
      let g = (d[l + 1]! - d[l]!) / (2 * e[l]!);
      let r = Math.hypot(g, 1);
      g = d[m]! - d[l]! + e[l]! / (g + (g >= 0 ? r : -r));
      let [s, c, shift] = [1, 1, 0];
      let i = m - 1;
      for (; i >= l; i--) {
        const f = s * e[i]!;
        const b = c * e[i]!;
        r = Math.hypot(f, g);
        e[i + 1] = r;
        if (r === 0) {
          d[i + 1]! -= shift;
          e[m] = 0;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1]! - shift;
        r = (d[i]! - g) * s + 2 * c * b;
        shift = s * r;
        d[i + 1] = g + shift;
        g = c * r - b;
      }
      if (r === 0 && i >= l) {
        continue;
      }
      d[l]! -= shift;
      e[l] = g;
      e[m] = 0;
    }
  }
}

/**
 * tr (A B)^½ of two positive semi-definite n × n matrices: with A = P L Lᵀ Pᵀ it is the sum of the
 * square roots of the eigenvalues of Lᵀ Pᵀ B P L, which is symmetric and as small as A's rank.
 */
export function traceOfProductRoot(a: Float64Array, b: Float64Array, n: number): number {
  const { factor, order, rank } = pivotedCholesky(a, n);
  if (rank === 0) {
    return 0;
  }
  const rows = new Float64Array(rank * n); // Lᵀ: row k is zero before k
  for (let i = 0; i < n; i++) {
    for (let k = 0; k <= Math.min(i, rank - 1); k++) {
      rows[k * n + i] = factor[i * n + k]!;
    }
  }
  const turned = new Float64Array(n * n); // Pᵀ B P
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      turned[i * n + j] = b[order[i]! * n + order[j]!]!;
    }
  }
  const half = new Float64Array(rank * n); // Lᵀ B
  addProduct(half, n, rows, n, turned, n, [0, rank], [0, n], [0, n], { from: true });
  const product = new Float64Array(rank * rank); // Lᵀ B L, its lower triangle
  addProduct(product, rank, rows, n, half, n, [0, rank], [0, rank], [0, n], {
    lower: true,
    from: true,
  });
  let sum = 0;
  for (const value of symmetricEigenvalues(product, rank)) {
    sum += Math.sqrt(Math.max(0, value));
  }
  return sum;
}
