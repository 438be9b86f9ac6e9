/**
 * Dense matrices in double precision, for the statistics of evaluation (src/eval/distribution/symmetric.ts,
 * which has the same functions in JavaScript and says what they compute). One thread; the order of
 * every sum depends on the shape alone.
 */
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels.h"
#include "simd.h"

namespace tessera {
namespace {

constexpr int DL = VL / 2;
typedef double vd __attribute__((vector_size(DL * 8), aligned(DL * 8), may_alias));
typedef double vd_any __attribute__((vector_size(DL * 8), aligned(8), may_alias));

TESSERA_INLINE vd load64(const double* p) { return *reinterpret_cast<const vd_any*>(p); }
TESSERA_INLINE void store64(double* p, vd x) { *reinterpret_cast<vd_any*>(p) = x; }
TESSERA_INLINE double total(vd x) {
  double sum = 0;
  for (int l = 0; l < DL; l++) sum += x[l];
  return sum;
}

constexpr i64 strip = 512;  // the operands of one strip of dot products stay in the cache

/** A tile of H × W dot products over k0 <= k < k1. */
template <int H, int W>
void tile(double* c, i64 ldc, const double* a, i64 lda, const double* b, i64 ldb, i64 k0, i64 k1, double sign) {
  vd sums[H][W] = {};
  double rest[H][W] = {};
  i64 k = k0;
  for (; k + DL <= k1; k += DL) {
    vd y[W];
    for (int q = 0; q < W; q++) y[q] = load64(b + q * ldb + k);
    for (int p = 0; p < H; p++) {
      const vd x = load64(a + p * lda + k);
      for (int q = 0; q < W; q++) sums[p][q] += x * y[q];
    }
  }
  for (; k < k1; k++) {
    for (int p = 0; p < H; p++) {
      for (int q = 0; q < W; q++) rest[p][q] += a[p * lda + k] * b[q * ldb + k];
    }
  }
  for (int p = 0; p < H; p++) {
    for (int q = 0; q < W; q++) c[p * ldc + q] += sign * (total(sums[p][q]) + rest[p][q]);
  }
}

}  // namespace

void add_product64(const Product64& s, double* c, const double* a, const double* b) {
  for (i64 k0 = s.inner[0]; k0 < s.inner[1]; k0 += strip) {
    const i64 k1 = std::min(s.inner[1], k0 + strip);
    for (i64 i = s.rows[0]; i < s.rows[1]; i += 4) {
      const i64 height = std::min<i64>(4, s.rows[1] - i);
      const i64 start = s.from ? std::max(k0, i) : k0;
      if (start >= k1) continue;
      const i64 last = s.lower ? std::min(s.columns[1], i + height) : s.columns[1];
      for (i64 j = s.columns[0]; j < last; j += 4) {
        const i64 width = std::min<i64>(4, s.columns[1] - j);
        if (height == 4 && width == 4) {
          tile<4, 4>(c + i * s.ldc + j, s.ldc, a + i * s.lda, s.lda, b + j * s.ldb, s.ldb, start, k1, s.sign);
          continue;
        }
        for (i64 p = i; p < i + height; p++) {
          for (i64 q = j; q < j + width; q++) {
            tile<1, 1>(c + p * s.ldc + q, s.ldc, a + p * s.lda, s.lda, b + q * s.ldb, s.ldb, start, k1, s.sign);
          }
        }
      }
    }
  }
}

void tridiagonalise64(double* a, i64 n, double* d, double* e) {
  std::vector<double> u(n), p(n), next(n), q(n);
  bool pending = false;  // u and p hold an update that rows up to i still lack
  const auto settle = [&](double* row, i64 j, i64 count) {
    for (i64 k = 0; k < count; k++) row[k] -= u[j] * p[k] + p[j] * u[k];
  };
  for (i64 i = n - 1; i >= 1; i--) {
    double* row = a + i * n;
    if (pending) settle(row, i, i + 1);
    d[i] = row[i];
    double norm = 0;
    for (i64 k = 0; k < i; k++) norm = std::max(norm, std::fabs(row[k]));
    if (norm == 0) {
      e[i] = 0;
      if (pending) {
        for (i64 j = 0; j < i; j++) settle(a + j * n, j, j + 1);
        pending = false;
      }
      continue;
    }
    double squares = 0;
    for (i64 k = 0; k < i; k++) {
      next[k] = row[k] / norm;
      squares += next[k] * next[k];
    }
    const double f = next[i - 1];
    const double g = f >= 0 ? -std::sqrt(squares) : std::sqrt(squares);
    e[i] = norm * g;
    const double h = squares - f * g;  // |u|² / 2
    next[i - 1] = f - g;
    std::fill(q.begin(), q.begin() + i, 0.0);
    for (i64 j = 0; j < i; j++) {
      double* at = a + j * n;
      const double uj = u[j], pj = p[j], xj = next[j];
      vd sums = {};
      double sum = 0;
      i64 k = 0;
      if (pending) {
        for (; k + DL <= j; k += DL) {
          const vd value = load64(at + k) - (uj * load64(&p[k]) + pj * load64(&u[k]));
          store64(at + k, value);
          sums += value * load64(&next[k]);
          store64(&q[k], load64(&q[k]) + value * xj);
        }
        for (; k < j; k++) {
          at[k] -= uj * p[k] + pj * u[k];
          sum += at[k] * next[k];
          q[k] += at[k] * xj;
        }
        at[j] -= 2 * uj * pj;
      } else {
        for (; k + DL <= j; k += DL) {
          const vd value = load64(at + k);
          sums += value * load64(&next[k]);
          store64(&q[k], load64(&q[k]) + value * xj);
        }
        for (; k < j; k++) {
          sum += at[k] * next[k];
          q[k] += at[k] * xj;
        }
      }
      q[j] += total(sums) + sum + at[j] * xj;
    }
    double dot = 0;
    for (i64 k = 0; k < i; k++) {
      q[k] /= h;
      dot += q[k] * next[k];
    }
    const double half = dot / (2 * h);
    for (i64 k = 0; k < i; k++) {
      u[k] = next[k];
      p[k] = q[k] - half * next[k];
    }
    pending = true;
  }
  d[0] = pending ? a[0] - 2 * u[0] * p[0] : a[0];
}

}  // namespace tessera
