/**
 * Toom-Cook (Winograd) algorithms F(m, 3): m outputs of a three-tap correlation from m + 2 products,
 * y = Aᵀ ((G g) ⊙ (Bᵀ d)) (Winograd 1980; Lavin & Gray 2016). Evaluation points: 0, pairs ±p, infinity.
 *
 * With L the product of (x² - q²) over the other pairs q, the rows of Bᵀ are the coefficients of
 *   0: L over all pairs;  ±p: (x² ± p x) L;  infinity: x L over all pairs,
 * all with leading coefficient 1; G takes the normalisation. Pairs share their even and odd parts.
 * The points' absolute values are those of the smallest error that we found among small fractions: with 64
 * channels, three nested F(4, 3) err by 3e-6 of the largest result, F(6, 3) over two F(4, 3) by 1.1e-5.
 */
#pragma once

#include "simd.h"

namespace tessera {

/** F(2·PAIRS, 3). */
template <int PAIRS>
struct Toom {
  static constexpr int taps = 3;
  static constexpr int outputs = 2 * PAIRS;
  static constexpr int points = outputs + 2;

  static constexpr float p(int i) {
    return PAIRS == 1 ? 1.0f : PAIRS == 2 ? (i == 0 ? 2.0f / 3 : 1.5f) : (i == 0 ? 0.5f : i == 1 ? 1.0f : 2.0f);
  }
  static constexpr double power(double x, int n) { return n == 0 ? 1 : x * power(x, n - 1); }

  /** Coefficient k of the product of (z - p_j²) over j < PAIRS but `skip` (a polynomial in z = x²). */
  static constexpr double coefficient(int k, int skip, int j = 0) {
    return j == PAIRS  ? (k == 0 ? 1.0 : 0.0)
           : j == skip ? coefficient(k, skip, j + 1)
                       : (k > 0 ? coefficient(k - 1, skip, j + 1) : 0.0) -
                             power(p(j), 2) * coefficient(k, skip, j + 1);
  }
  struct Table {
    float power[PAIRS][outputs];  // p_i^j
    float norm[PAIRS + 1];        // 1 / norm, the point 0 last
    float norm_p[PAIRS], norm_pp[PAIRS];
  };
  static constexpr Table make_table() {
    Table t{};
    for (int i = 0; i < PAIRS; i++) {
      for (int j = 0; j < outputs; j++) t.power[i][j] = static_cast<float>(power(p(i), j));
      t.norm[i] = static_cast<float>(1 / norm(i));
      t.norm_p[i] = static_cast<float>(p(i) / norm(i));
      t.norm_pp[i] = static_cast<float>(power(p(i), 2) / norm(i));
    }
    t.norm[PAIRS] = static_cast<float>(1 / norm(-1));
    return t;
  }

  /** The value that row i of Bᵀ's polynomial has at its own point: pair i, or -1 for the point 0. */
  static constexpr double norm(int i) {
    double value = i < 0 ? 1 : 2 * power(p(i), 2);
    for (int j = 0; j < PAIRS; j++) {
      if (j != i) value *= (i < 0 ? 0 : power(p(i), 2)) - power(p(j), 2);
    }
    return value;
  }

  /** y + sum of coefficient(k, SKIP) d[2k + first] over k <= K. */
  template <int SKIP, int K>
  static TESSERA_INLINE vf terms(const vf* d, int first, vf y) {
    if constexpr (K < 0) {
      return y;
    } else {
      constexpr float w = static_cast<float>(coefficient(K, SKIP));
      return terms<SKIP, K - 1>(d, first, fma(set1(w), d[2 * K + first], y));
    }
  }
  /** The whole sum; the last coefficient is 1. */
  template <int SKIP>
  static TESSERA_INLINE vf even(const vf* d, int first) {
    constexpr int top = SKIP < 0 ? PAIRS : PAIRS - 1;
    return terms<SKIP, top - 1>(d, first, d[2 * top + first]);
  }

  template <int I>
  static TESSERA_INLINE void pair_input(const vf* d, vf* out) {
    constexpr float value = p(I);
    const vf e = even<I>(d, 2), o = even<I>(d, 1), w = set1(value);
    out[1 + 2 * I] = fma(w, o, e);
    out[2 + 2 * I] = fma(-w, o, e);
    if constexpr (I + 1 < PAIRS) pair_input<I + 1>(d, out);
  }
  /** Bᵀ d: points values from points values. */
  static TESSERA_INLINE void input(const vf* d, vf* out) {
    out[0] = even<-1>(d, 0);
    pair_input<0>(d, out);
    out[points - 1] = even<-1>(d, 1);
  }

  /** Bᵀ d in two halves, for what else has no room in the registers: rows [0, half) and [half, points). */
  static constexpr int half = PAIRS == 2 ? 3 : points;
  template <bool SECOND>
  static TESSERA_INLINE void input_half(const vf* d, vf* out) {
    if constexpr (PAIRS == 2) {
      constexpr float value = p(SECOND ? 1 : 0);
      const vf e = even<SECOND ? 1 : 0>(d, 2), o = even<SECOND ? 1 : 0>(d, 1), w = set1(value);
      const vf alone = even<-1>(d, SECOND ? 1 : 0);
      out[SECOND ? 0 : 1] = fma(w, o, e);
      out[SECOND ? 1 : 2] = fma(-w, o, e);
      out[SECOND ? 2 : 0] = alone;
    } else if constexpr (!SECOND) {
      input(d, out);
    }
  }

  /** Aᵀ m: outputs values from points values. */
  static TESSERA_INLINE void output(const vf* m, vf* y) {
    constexpr Table table = make_table();
    vf s[PAIRS], t[PAIRS];
#pragma GCC unroll 4
    for (int i = 0; i < PAIRS; i++) {
      s[i] = m[1 + 2 * i] + m[2 + 2 * i];
      t[i] = m[1 + 2 * i] - m[2 + 2 * i];
    }
#pragma GCC unroll 8
    for (int j = 0; j < outputs; j++) {
      vf v = j == 0 ? m[0] : j == outputs - 1 ? m[points - 1] : vf{};
#pragma GCC unroll 4
      for (int i = 0; i < PAIRS; i++) {
        const vf u = j % 2 == 0 ? s[i] : t[i];
        const float w = table.power[i][j];
        const bool first = i == 0 && j > 0 && j < outputs - 1;
        v = first ? u * w : w == 1.0f ? v + u : fma(set1(w), u, v);
      }
      y[j] = v;
    }
  }

  /** A y: points values from outputs values, the adjoint of `output`. */
  static TESSERA_INLINE void output_adjoint(const vf* y, vf* m) {
    constexpr Table table = make_table();
    m[0] = y[0];
#pragma GCC unroll 4
    for (int i = 0; i < PAIRS; i++) {
      vf e = y[0], o = y[1] * table.power[i][1];
#pragma GCC unroll 4
      for (int j = 2; j < outputs; j += 2) {
        e = fma(set1(table.power[i][j]), y[j], e);
        o = fma(set1(table.power[i][j + 1]), y[j + 1], o);
      }
      m[1 + 2 * i] = e + o;
      m[2 + 2 * i] = e - o;
    }
    m[points - 1] = y[outputs - 1];
  }

  /** G g: points values from three. */
  static TESSERA_INLINE void filter(const vf* g, vf* u) {
    constexpr Table table = make_table();
    u[0] = g[0] * table.norm[PAIRS];
#pragma GCC unroll 4
    for (int i = 0; i < PAIRS; i++) {
      const vf e = fma(set1(table.norm_pp[i]), g[2], g[0] * table.norm[i]);
      const vf o = g[1] * table.norm_p[i];
      u[1 + 2 * i] = e + o;
      u[2 + 2 * i] = e - o;
    }
    u[points - 1] = g[2];
  }

  /** Gᵀ u: three values from points values. */
  static TESSERA_INLINE void filter_adjoint(const vf* u, vf* g) {
    constexpr Table table = make_table();
    g[0] = u[0] * table.norm[PAIRS];
    g[1] = vf{};
    g[2] = u[points - 1];
#pragma GCC unroll 4
    for (int i = 0; i < PAIRS; i++) {
      const vf s = u[1 + 2 * i] + u[2 + 2 * i], t = u[1 + 2 * i] - u[2 + 2 * i];
      g[0] = fma(set1(table.norm[i]), s, g[0]);
      g[1] = fma(set1(table.norm_p[i]), t, g[1]);
      g[2] = fma(set1(table.norm_pp[i]), s, g[2]);
    }
  }
};

/** An axis without a filter. */
struct Single {
  static constexpr int taps = 1, outputs = 1, points = 1;
  static TESSERA_INLINE void input(const vf* d, vf* out) { out[0] = d[0]; }
  static TESSERA_INLINE void output(const vf* m, vf* y) { y[0] = m[0]; }
  static TESSERA_INLINE void output_adjoint(const vf* y, vf* m) { m[0] = y[0]; }
  static TESSERA_INLINE void filter(const vf* g, vf* u) { u[0] = g[0]; }
  static TESSERA_INLINE void filter_adjoint(const vf* u, vf* g) { g[0] = u[0]; }
};

}  // namespace tessera
