/** Softmax and cross-entropy along rows. */
#include <algorithm>

#include "internal.h"

namespace tessera {
namespace {

TESSERA_INLINE vf get(const float* p, int n) { return n == VL ? load(p) : load_part(p, n); }
TESSERA_INLINE void put(float* p, vf x, int n) { n == VL ? store(p, x) : store_part(p, x, n); }
inline int part(i64 i, i64 n) { return static_cast<int>(std::min<i64>(VL, n - i)); }

inline i64 grain(i64 n) { return std::max<i64>(1, 4096 / std::max<i64>(n, 1)); }

float row_max(const float* x, i64 n) {
  vf m = set1(-__builtin_inff());
  i64 i = 0;
  for (; i + VL <= n; i += VL) m = vmax(load(x + i), m);
  float best = largest(m);
  for (; i < n; i++) best = x[i] > best ? x[i] : best;
  return best;
}

/** Sum of e^(x - m) and, where wanted, of x - m. */
float row_exp_sum(const float* x, i64 n, float m, float* plain) {
  vf s{}, p{};
  i64 i = 0;
  for (; i + VL <= n; i += VL) {
    const vf d = load(x + i) - m;
    s += vexp(d);
    p += d;
  }
  if (i < n) {
    const int left = part(i, n);
    vf d = load_part(x + i, left) - m;
    vf e = vexp(d);
    for (int l = left; l < VL; l++) d[l] = e[l] = 0;
    s += e;
    p += d;
  }
  if (plain) *plain = sum(p);
  return sum(s);
}

}  // namespace

void softmax(i64 rows, i64 n, const float* x, float* y) {
  parallel_for(rows, grain(n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; r++) {
      const float* row = x + r * n;
      float* out = y + r * n;
      const float m = row_max(row, n);
      vf s{};
      for (i64 i = 0; i < n; i += VL) {
        const int k = part(i, n);
        vf e = vexp(get(row + i, k) - m);
        put(out + i, e, k);
        if (k < VL) e = get(out + i, k);
        s += e;
      }
      const float scale = 1 / sum(s);
      for (i64 i = 0; i < n; i += VL) put(out + i, get(out + i, part(i, n)) * scale, part(i, n));
    }
  });
}

void log_softmax(i64 rows, i64 n, const float* x, float* y) {
  parallel_for(rows, grain(n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; r++) {
      const float* row = x + r * n;
      const float m = row_max(row, n);
      const float shift = std::log(row_exp_sum(row, n, m, nullptr));
      for (i64 i = 0; i < n; i += VL) {
        put(y + r * n + i, get(row + i, part(i, n)) - m - shift, part(i, n));
      }
    }
  });
}

void softmax_grad(i64 rows, i64 n, const float* y, const float* dy, float* dx) {
  parallel_for(rows, grain(n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; r++) {
      const float *row = y + r * n, *grad = dy + r * n;
      vf s{};
      for (i64 i = 0; i < n; i += VL) s = fma(get(row + i, part(i, n)), get(grad + i, part(i, n)), s);
      const float inner = sum(s);
      for (i64 i = 0; i < n; i += VL) {
        const int k = part(i, n);
        put(dx + r * n + i, get(row + i, k) * (get(grad + i, k) - inner), k);
      }
    }
  });
}

void log_softmax_grad(i64 rows, i64 n, const float* y, const float* dy, float* dx) {
  parallel_for(rows, grain(n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; r++) {
      const float *row = y + r * n, *grad = dy + r * n;
      vf s{};
      for (i64 i = 0; i < n; i += VL) s += get(grad + i, part(i, n));
      const vf total = set1(sum(s));
      for (i64 i = 0; i < n; i += VL) {
        const int k = part(i, n);
        put(dx + r * n + i, get(grad + i, k) - vexp(get(row + i, k)) * total, k);
      }
    }
  });
}

void softmax_cross_entropy(i64 rows, i64 n, const float* logits, const std::int32_t* labels,
                           float smoothing, const float* weight, float* loss) {
  parallel_for(rows, grain(n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; r++) {
      const std::int32_t label = labels[r];
      if (label < 0 || label >= n) {
        loss[r] = 0;
        continue;
      }
      const float* row = logits + r * n;
      const float m = row_max(row, n);
      float plain;
      const float total = std::log(row_exp_sum(row, n, m, &plain));
      // sum of target · (log Z - (x - m)), the targets summing to 1
      const float picked = (1 - smoothing) * (row[label] - m) + smoothing * plain / static_cast<float>(n);
      loss[r] = (weight ? weight[r] : 1) * (total - picked);
    }
  });
}

void softmax_cross_entropy_grad(i64 rows, i64 n, const float* logits, const std::int32_t* labels,
                                float smoothing, const float* weight, const float* dloss,
                                float* dlogits) {
  parallel_for(rows, grain(n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; r++) {
      const std::int32_t label = labels[r];
      const float* row = logits + r * n;
      float* out = dlogits + r * n;
      const float outer = (weight ? weight[r] : 1) * dloss[r];
      if (label < 0 || label >= n || outer == 0) {
        std::fill(out, out + n, 0.0f);
        continue;
      }
      const float m = row_max(row, n);
      const float scale = outer / row_exp_sum(row, n, m, nullptr);
      const float even = outer * smoothing / static_cast<float>(n);
      for (i64 i = 0; i < n; i += VL) {
        const int k = part(i, n);
        put(out + i, fma(vexp(get(row + i, k) - m), set1(scale), set1(-even)), k);
      }
      out[label] -= outer * (1 - smoothing);
    }
  });
}

}  // namespace tessera
