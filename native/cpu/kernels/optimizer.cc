/** AdamW with the moving average, and the gradient's norm. */
#include <algorithm>

#include "internal.h"

namespace tessera {
namespace {

constexpr i64 kBlock = 16384;

/** Calls f(tensor, first, count, block number) over blocks of all tensors. */
template <typename Size, typename F>
void by_blocks(i64 count, Size size, F f) {
  i64* starts = reinterpret_cast<i64*>(shared_scratch(0, 2 * (count + 1)));
  starts[0] = 0;
  for (i64 t = 0; t < count; t++) starts[t + 1] = starts[t] + ceil_div(size(t), kBlock);
  parallel_for(starts[count], 1, [&](i64 begin, i64 end, int) {
    i64 t = std::upper_bound(starts, starts + count + 1, begin) - starts - 1;
    for (i64 block = begin; block < end; block++) {
      while (block >= starts[t + 1]) t++;
      const i64 first = (block - starts[t]) * kBlock;
      f(t, first, std::min(kBlock, size(t) - first), block);
    }
  });
}

TESSERA_INLINE vf get(const float* p, int n) { return n == VL ? load(p) : load_part(p, n); }
TESSERA_INLINE void put(float* p, vf x, int n) { n == VL ? store(p, x) : store_part(p, x, n); }

}  // namespace

double sum_of_squares(i64 count, const i64* sizes, const float* const* tensors) {
  i64 blocks = 0;
  for (i64 t = 0; t < count; t++) blocks += ceil_div(sizes[t], kBlock);
  double* sums = reinterpret_cast<double*>(shared_scratch(1, 2 * (blocks + 1)));
  by_blocks(count, [&](i64 t) { return sizes[t]; }, [&](i64 t, i64 first, i64 n, i64 block) {
    const float* x = tensors[t] + first;
    double total = 0;
    for (i64 run = 0; run < n; run += 1024) {
      vf s{}, q{};
      const i64 end = std::min(n, run + 1024);
      i64 i = run;
      for (; i + 2 * VL <= end; i += 2 * VL) {
        const vf u = load(x + i), v = load(x + i + VL);
        s = fma(u, u, s);
        q = fma(v, v, q);
      }
      for (; i < end; i += VL) {
        const vf u = get(x + i, static_cast<int>(std::min<i64>(VL, end - i)));
        s = fma(u, u, s);
      }
      total += sum(s + q);
    }
    sums[block] = total;
  });
  double total = 0;
  for (i64 i = 0; i < blocks; i++) total += sums[i];
  return total;
}

void adamw(const AdamW& o, i64 count, const AdamWTensor* tensors) {
  const vf b1 = set1(1 - o.beta1), b2 = set1(1 - o.beta2), rate = set1(o.rate);
  const vf epsilon = set1(o.epsilon), scale = set1(o.grad_scale), mix = set1(1 - o.ema_decay);
  by_blocks(count, [&](i64 t) { return tensors[t].size; }, [&](i64 t, i64 first, i64 n, i64) {
    const AdamWTensor& s = tensors[t];
    const vf keep = set1(s.decay ? o.keep : 1);
    for (i64 i = first; i < first + n; i += VL) {
      const int k = static_cast<int>(std::min<i64>(VL, first + n - i));
      const vf g = get(s.grad + i, k) * scale;
      vf m = get(s.m + i, k), v = get(s.v + i, k);
      m = fma(g - m, b1, m);
      v = fma(fma(g, g, -v), b2, v);
      vf p = get(s.p + i, k) * keep;
      p = p - rate * (m / (vsqrt(v) + epsilon));
      put(s.m_out + i, m, k);
      put(s.v_out + i, v, k);
      put(s.p_out + i, p, k);
      if (s.ema) {
        const vf e = get(s.ema + i, k);
        put(s.ema_out + i, fma(p - e, mix, e), k);
      }
    }
  });
}

}  // namespace tessera
