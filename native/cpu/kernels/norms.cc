/**
 * Group norm and layer norm with their gradients. Sums run in float vectors over short runs of rows and
 * in double from run to run; the runs depend on the shape alone, so the number of threads changes nothing.
 */
#include <algorithm>

#include "internal.h"

namespace tessera {
namespace {

constexpr i64 kRun = 128;        // rows summed in float
constexpr i64 kFewBatches = 12;  // fewer batches than this are split by positions

/** Calls f(first channel, channels of this vector) with NV vectors unrolled where possible. */
template <typename F>
inline void by_vectors(i64 channels, F f) {
  i64 c = 0;
  for (; c + 4 * VL <= channels; c += 4 * VL) f.template run<4>(c, VL);
  for (; c + 2 * VL <= channels; c += 2 * VL) f.template run<2>(c, VL);
  for (; c + VL <= channels; c += VL) f.template run<1>(c, VL);
  if (c < channels) f.template run<1>(c, static_cast<int>(channels - c));
}

TESSERA_INLINE vf get(const float* p, int n) { return n == VL ? load(p) : load_part(p, n); }
TESSERA_INLINE void put(float* p, vf x, int n) { n == VL ? store(p, x) : store_part(p, x, n); }

/** Per channel: sum += sum (x - pivot), squares += sum (x - pivot)². */
struct Moments {
  const float* x;  // [rows, channels]
  i64 rows, channels;
  const float* pivot;
  double *sum, *squares;

  template <int NV>
  void run(i64 c, int n) {
    vf p[NV];
    for (int v = 0; v < NV; v++) p[v] = get(pivot + c + v * VL, n);
    for (i64 first = 0; first < rows; first += kRun) {
      const i64 end = std::min(rows, first + kRun);
      vf s[NV]{}, q[NV]{};
      for (i64 r = first; r < end; r++) {
        for (int v = 0; v < NV; v++) {
          const vf d = get(x + r * channels + c + v * VL, n) - p[v];
          s[v] += d;
          q[v] = fma(d, d, q[v]);
        }
      }
      for (int v = 0; v < NV; v++) {
        for (int l = 0; l < n; l++) {
          sum[c + v * VL + l] += s[v][l];
          squares[c + v * VL + l] += q[v][l];
        }
      }
    }
  }
};

/** y = act(a x + b) per channel. */
struct Apply {
  const float *x, *a, *b;
  float* y;
  i64 rows, channels;
  bool silu;

  template <int NV>
  void run(i64 c, int n) {
    vf va[NV], vb[NV];
    for (int v = 0; v < NV; v++) {
      va[v] = get(a + c + v * VL, n);
      vb[v] = get(b + c + v * VL, n);
    }
    if (silu) {
      for (i64 r = 0; r < rows; r++) {
        for (int v = 0; v < NV; v++) {
          const i64 at = r * channels + c + v * VL;
          put(y + at, vsilu(fma(get(x + at, n), va[v], vb[v])), n);
        }
      }
    } else {
      for (i64 r = 0; r < rows; r++) {
        for (int v = 0; v < NV; v++) {
          const i64 at = r * channels + c + v * VL;
          put(y + at, fma(get(x + at, n), va[v], vb[v]), n);
        }
      }
    }
  }
};

/** du = dy · act'(a x + b) to dx; sums of du and of du (x - mean) per channel. */
struct Slopes {
  const float *x, *dy, *a, *b, *mean;
  float* dx;
  i64 rows, channels;
  bool silu;
  double *sum, *products;

  template <int NV>
  void run(i64 c, int n) {
    vf va[NV], vb[NV], vm[NV];
    for (int v = 0; v < NV; v++) {
      va[v] = get(a + c + v * VL, n);
      vb[v] = get(b + c + v * VL, n);
      vm[v] = get(mean + c + v * VL, n);
    }
    for (i64 first = 0; first < rows; first += kRun) {
      const i64 end = std::min(rows, first + kRun);
      vf s[NV]{}, q[NV]{};
      for (i64 r = first; r < end; r++) {
        for (int v = 0; v < NV; v++) {
          const i64 at = r * channels + c + v * VL;
          const vf value = get(x + at, n);
          vf du = get(dy + at, n);
          if (silu) {
            du = du * vsilu_slope(fma(value, va[v], vb[v]));
            put(dx + at, du, n);
          }
          s[v] += du;
          q[v] = fma(du, value - vm[v], q[v]);
        }
      }
      for (int v = 0; v < NV; v++) {
        for (int l = 0; l < n; l++) {
          sum[c + v * VL + l] += s[v][l];
          products[c + v * VL + l] += q[v][l];
        }
      }
    }
  }
};

/** dx = a du + b x + d per channel. */
struct Combine {
  const float *x, *du, *a, *b, *d;
  float* dx;
  i64 rows, channels;

  template <int NV>
  void run(i64 c, int n) {
    vf va[NV], vb[NV], vd[NV];
    for (int v = 0; v < NV; v++) {
      va[v] = get(a + c + v * VL, n);
      vb[v] = get(b + c + v * VL, n);
      vd[v] = get(d + c + v * VL, n);
    }
    for (i64 r = 0; r < rows; r++) {
      for (int v = 0; v < NV; v++) {
        const i64 at = r * channels + c + v * VL;
        put(dx + at, fma(get(du + at, n), va[v], fma(get(x + at, n), vb[v], vd[v])), n);
      }
    }
  }
};

struct Spans {
  i64 parts, rows;  // parts a batch, rows a part
};

/** Rows that are summed up together before their sums are added: the same for any number of batches. */
i64 part_rows(const GroupNorm& s) {
  if (s.positions < 2 * kRun) return std::max<i64>(s.positions, 1);
  return round_up(std::max<i64>(ceil_div(s.positions, 16), 2 * kRun), kRun);
}

/** One part a batch where there are enough batches: then a batch stays in the cache from pass to pass. */
Spans spans_of(const GroupNorm& s) {
  if (s.batch >= kFewBatches || s.positions < 2 * kRun) return {1, s.positions};
  const i64 rows = part_rows(s);
  return {ceil_div(s.positions, rows), rows};
}

/** Moments of one batch, its parts' sums added in order. space: 2 · channels. */
void batch_moments(const GroupNorm& s, const float* x, double* sums, double* space) {
  const i64 c = s.channels, rows = part_rows(s);
  for (i64 first = 0; first < s.positions; first += rows) {
    double* at = first == 0 ? sums : space;
    std::fill(at, at + 2 * c, 0.0);
    by_vectors(c, Moments{x + first * c, std::min(rows, s.positions - first), c, x, at, at + c});
    for (i64 k = 0; first > 0 && k < 2 * c; k++) sums[k] += space[k];
  }
}

/** Mean and 1 / standard deviation of each group from moments about the pivot. */
void finish_moments(const GroupNorm& s, const double* sum, const double* squares, const float* pivot,
                    float* mean, float* rstd) {
  const i64 width = s.channels / s.groups;
  const double count = static_cast<double>(width) * static_cast<double>(s.positions);
  for (i64 g = 0; g < s.groups; g++) {
    double total = 0;
    for (i64 c = g * width; c < (g + 1) * width; c++) total += sum[c] + static_cast<double>(pivot[c]) * s.positions;
    const double m = total / count;
    double variance = 0;  // sum (x - m)² = sum (d + pivot - m)²
    for (i64 c = g * width; c < (g + 1) * width; c++) {
      const double shift = static_cast<double>(pivot[c]) - m;
      variance += squares[c] + 2 * shift * sum[c] + shift * shift * s.positions;
    }
    variance = std::max(variance / count, 0.0);
    mean[g] = static_cast<float>(m);
    rstd[g] = static_cast<float>(1 / std::sqrt(variance + s.epsilon));
  }
}

/** y = a x + b: a = rstd scale, b = shift - mean a. */
void coefficients(const GroupNorm& s, const float* mean, const float* rstd, const float* scale,
                  const float* shift, float* a, float* b) {
  const i64 width = s.channels / s.groups;
  for (i64 c = 0; c < s.channels; c++) {
    const i64 g = c / width;
    a[c] = rstd[g] * (scale ? scale[c] : 1);
    b[c] = (shift ? shift[c] : 0) - mean[g] * a[c];
  }
}

/** Writes mean and rstd [batch, groups]. */
void moments(const GroupNorm& s, const float* x, float* mean, float* rstd, double* partial) {
  const auto [parts, rows] = spans_of(s);
  const i64 c = s.channels;
  parallel_for(s.batch * parts, 1, [&, parts = parts, rows = rows](i64 begin, i64 end, int) {
    for (i64 i = begin; i < end; i++) {
      const i64 b = i / parts, part = i % parts;
      const float* batch = x + b * s.positions * c;
      double* at = partial + i * 2 * c;
      std::fill(at, at + 2 * c, 0.0);
      const i64 count = std::min(rows, s.positions - part * rows);
      by_vectors(c, Moments{batch + part * rows * c, count, c, batch, at, at + c});
    }
  });
  for (i64 b = 0; b < s.batch; b++) {
    double* total = partial + b * parts * 2 * c;
    for (i64 part = 1; part < parts; part++) {
      for (i64 k = 0; k < 2 * c; k++) total[k] += total[part * 2 * c + k];
    }
    finish_moments(s, total, total + c, x + b * s.positions * c, mean + b * s.groups,
                   rstd + b * s.groups);
  }
}

}  // namespace

void group_norm(const GroupNorm& s, const float* x, const float* scale, const float* shift, float* y,
                float* mean, float* rstd) {
  if (s.batch * s.positions * s.channels == 0) return;
  const auto [parts, rows] = spans_of(s);
  const i64 c = s.channels;
  float* statistics = shared_scratch(0, 2 * s.batch * s.groups);
  if (!mean) mean = statistics;
  if (!rstd) rstd = statistics + s.batch * s.groups;
  if (parts == 1) {
    parallel_for(s.batch, 1, [&](i64 begin, i64 end, int thread) {
      double* sums = reinterpret_cast<double*>(thread_scratch(thread, 0, 10 * c));
      float* a = reinterpret_cast<float*>(sums + 4 * c);
      for (i64 b = begin; b < end; b++) {
        const float* batch = x + b * s.positions * c;
        batch_moments(s, batch, sums, sums + 2 * c);
        finish_moments(s, sums, sums + c, batch, mean + b * s.groups, rstd + b * s.groups);
        coefficients(s, mean + b * s.groups, rstd + b * s.groups, scale, shift, a, a + c);
        by_vectors(c, Apply{batch, a, a + c, y + b * s.positions * c, s.positions, c, s.silu});
      }
    });
    return;
  }
  moments(s, x, mean, rstd, reinterpret_cast<double*>(shared_scratch(1, s.batch * parts * 4 * c)));
  parallel_for(s.batch * parts, 1, [&, parts = parts, rows = rows](i64 begin, i64 end, int thread) {
    float* a = thread_scratch(thread, 0, 2 * c);
    for (i64 i = begin; i < end; i++) {
      const i64 b = i / parts, part = i % parts;
      coefficients(s, mean + b * s.groups, rstd + b * s.groups, scale, shift, a, a + c);
      const i64 at = (b * s.positions + part * rows) * c;
      by_vectors(c, Apply{x + at, a, a + c, y + at, std::min(rows, s.positions - part * rows), c, s.silu});
    }
  });
}

namespace {

/** From the sums of one batch: coefficients of dx, and this batch's part of dscale (in place of products). */
void finish_slopes(const GroupNorm& s, const float* mean, const float* rstd, const float* scale,
                   double* sum, double* products, float* a, float* b, float* d) {
  const i64 width = s.channels / s.groups;
  const double count = static_cast<double>(width) * static_cast<double>(s.positions);
  for (i64 g = 0; g < s.groups; g++) {
    double first = 0, second = 0;
    const double r = rstd[g];
    for (i64 c = g * width; c < (g + 1) * width; c++) {
      products[c] *= r;  // sum of du times the normalised value
      const double gain = scale ? scale[c] : 1;
      first += gain * sum[c];
      second += gain * products[c];
    }
    first /= count;
    second /= count;
    for (i64 c = g * width; c < (g + 1) * width; c++) {
      a[c] = static_cast<float>(r * (scale ? scale[c] : 1));
      b[c] = static_cast<float>(-r * r * second);
      d[c] = static_cast<float>(r * (mean[g] * r * second - first));
    }
  }
}

}  // namespace

void group_norm_grad(const GroupNorm& s, const float* x, const float* scale, const float* shift,
                     const float* dy, float* dx, float* dscale, float* dshift, const float* mean,
                     const float* rstd) {
  const i64 c = s.channels;
  if (s.batch * s.positions * c == 0) {
    if (dscale) std::fill(dscale, dscale + c, 0.0f);
    if (dshift) std::fill(dshift, dshift + c, 0.0f);
    return;
  }
  const auto [parts, rows] = spans_of(s);
  float* statistics = shared_scratch(0, 2 * s.batch * s.groups);
  double* sums = reinterpret_cast<double*>(shared_scratch(1, s.batch * parts * 4 * c));
  const bool known = mean && rstd;
  const float* du = s.silu ? dx : dy;
  const auto slopes = [&](i64 b, i64 first, i64 count, const float* m, const float* r, double* at,
                          float* space) {  // space: [6, c]
    float *a = space, *shifts = space + c, *wide = space + 2 * c;
    coefficients(s, m, r, scale, shift, a, shifts);
    for (i64 k = 0; k < c; k++) wide[k] = m[k / (c / s.groups)];
    std::fill(at, at + 2 * c, 0.0);
    const i64 offset = (b * s.positions + first) * c;
    by_vectors(c, Slopes{x + offset, dy + offset, a, shifts, wide, dx + offset, count, c, s.silu, at, at + c});
  };
  if (parts == 1) {
    parallel_for(s.batch, 1, [&](i64 begin, i64 end, int thread) {
      float* space = thread_scratch(thread, 0, 6 * c);
      for (i64 b = begin; b < end; b++) {
        const i64 at = b * s.positions * c;
        double* sum = sums + b * 2 * c;
        const float *m = mean + b * s.groups, *r = rstd + b * s.groups;
        if (!known) {
          float* own = statistics + 2 * b * s.groups;
          batch_moments(s, x + at, sum, reinterpret_cast<double*>(space));
          finish_moments(s, sum, sum + c, x + at, own, own + s.groups);
          m = own;
          r = own + s.groups;
        }
        slopes(b, 0, s.positions, m, r, sum, space);
        finish_slopes(s, m, r, scale, sum, sum + c, space, space + c, space + 2 * c);
        by_vectors(c, Combine{x + at, du + at, space, space + c, space + 2 * c, dx + at, s.positions, c});
      }
    });
  } else {
    if (!known) {
      moments(s, x, statistics, statistics + s.batch * s.groups, sums);
      mean = statistics;
      rstd = statistics + s.batch * s.groups;
    }
    parallel_for(s.batch * parts, 1, [&, parts = parts, rows = rows](i64 begin, i64 end, int thread) {
      float* space = thread_scratch(thread, 0, 6 * c);
      for (i64 i = begin; i < end; i++) {
        const i64 b = i / parts, first = i % parts * rows;
        slopes(b, first, std::min(rows, s.positions - first), mean + b * s.groups, rstd + b * s.groups,
               sums + i * 2 * c, space);
      }
    });
    float* lines = shared_scratch(2, s.batch * 3 * c);
    for (i64 b = 0; b < s.batch; b++) {
      double* total = sums + b * parts * 2 * c;
      for (i64 part = 1; part < parts; part++) {
        for (i64 k = 0; k < 2 * c; k++) total[k] += total[part * 2 * c + k];
      }
      float* line = lines + b * 3 * c;
      finish_slopes(s, mean + b * s.groups, rstd + b * s.groups, scale, total, total + c, line, line + c,
                    line + 2 * c);
    }
    parallel_for(s.batch * parts, 1, [&, parts = parts, rows = rows](i64 begin, i64 end, int) {
      for (i64 i = begin; i < end; i++) {
        const i64 b = i / parts, first = i % parts * rows, at = (b * s.positions + first) * c;
        const float* line = lines + b * 3 * c;
        by_vectors(c, Combine{x + at, du + at, line, line + c, line + 2 * c, dx + at,
                              std::min(rows, s.positions - first), c});
      }
    });
  }
  for (i64 k = 0; k < c; k++) {
    double shifts = 0, scales = 0;
    for (i64 b = 0; b < s.batch; b++) {
      shifts += sums[b * parts * 2 * c + k];
      scales += sums[b * parts * 2 * c + c + k];
    }
    if (dscale) dscale[k] = static_cast<float>(scales);
    if (dshift) dshift[k] = static_cast<float>(shifts);
  }
}

// --- Layer norm ----------------------------------------------------------------------------------

namespace {

void row_moments(const float* x, i64 c, float epsilon, float* mean, float* rstd) {
  vf s{};
  i64 i = 0;
  for (; i + VL <= c; i += VL) s += load(x + i);
  if (i < c) s += load_part(x + i, static_cast<int>(c - i));
  const float m = sum(s) / static_cast<float>(c);
  vf q{};
  for (i = 0; i + VL <= c; i += VL) {
    const vf d = load(x + i) - m;
    q = fma(d, d, q);
  }
  float squares = sum(q);
  for (; i < c; i++) squares += (x[i] - m) * (x[i] - m);
  *mean = m;
  *rstd = 1 / std::sqrt(squares / static_cast<float>(c) + epsilon);
}

}  // namespace

void layer_norm(i64 rows, i64 c, float epsilon, const float* x, const float* scale, const float* shift,
                float* y, float* mean, float* rstd) {
  parallel_for(rows, std::max<i64>(1, 8192 / std::max<i64>(c, 1)), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; r++) {
      const float* row = x + r * c;
      float m, s;
      row_moments(row, c, epsilon, &m, &s);
      if (mean) mean[r] = m;
      if (rstd) rstd[r] = s;
      const float offset = -m * s;
      for (i64 i = 0; i < c; i += VL) {
        const int n = static_cast<int>(std::min<i64>(VL, c - i));
        vf v = fma(get(row + i, n), set1(s), set1(offset));
        v = fma(v, scale ? get(scale + i, n) : set1(1), shift ? get(shift + i, n) : set1(0));
        put(y + r * c + i, v, n);
      }
    }
  });
}

void layer_norm_grad(i64 rows, i64 c, float epsilon, const float* x, const float* scale, const float* dy,
                     float* dx, float* dscale, float* dshift, const float* mean, const float* rstd) {
  // Parts of rows, whatever the threads, each with its own sums.
  const i64 part = std::max<i64>(ceil_div(rows, 64), 16), parts = ceil_div(rows, part);
  float* sums = shared_scratch(0, parts * 2 * c);
  parallel_for(parts, 1, [&](i64 begin, i64 end, int) {
    for (i64 p = begin; p < end; p++) {
      float *scales = sums + p * 2 * c, *shifts = scales + c;
      std::fill(scales, scales + 2 * c, 0.0f);
      for (i64 r = p * part; r < std::min(rows, (p + 1) * part); r++) {
        const float *row = x + r * c, *grad = dy + r * c;
        float m, s;
        if (mean && rstd) {
          m = mean[r];
          s = rstd[r];
        } else {
          row_moments(row, c, epsilon, &m, &s);
        }
        const float offset = -m * s;
        vf first{}, second{};
        for (i64 i = 0; i < c; i += VL) {
          const int n = static_cast<int>(std::min<i64>(VL, c - i));
          vf normal = fma(get(row + i, n), set1(s), set1(offset));
          const vf g = get(grad + i, n);
          const vf weighted = scale ? g * get(scale + i, n) : g;
          put(scales + i, fma(g, normal, get(scales + i, n)), n);
          put(shifts + i, get(shifts + i, n) + g, n);
          first += weighted;
          second = fma(weighted, normal, second);  // g is 0 behind the row's end
        }
        const float average = sum(first) / static_cast<float>(c);
        const float alignment = sum(second) / static_cast<float>(c);
        for (i64 i = 0; i < c; i += VL) {
          const int n = static_cast<int>(std::min<i64>(VL, c - i));
          const vf normal = fma(get(row + i, n), set1(s), set1(offset));
          const vf g = get(grad + i, n);
          const vf weighted = scale ? g * get(scale + i, n) : g;
          put(dx + r * c + i, (weighted - average - normal * alignment) * s, n);
        }
      }
    }
  });
  for (i64 i = 0; i < c; i++) {
    double scales = 0, shifts = 0;
    for (i64 p = 0; p < parts; p++) {
      scales += sums[p * 2 * c + i];
      shifts += sums[p * 2 * c + c + i];
    }
    if (dscale) dscale[i] = static_cast<float>(scales);
    if (dshift) dshift[i] = static_cast<float>(shifts);
  }
}

}  // namespace tessera
