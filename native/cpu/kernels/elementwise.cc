/** Functions of single values. */
#include "internal.h"

namespace tessera {
namespace {

constexpr i64 kGrain = 8192;

template <typename F>
void map(i64 n, const float* x, float* y, F f) {
  parallel_for(ceil_div(n, VL), kGrain / VL, [&](i64 begin, i64 end, int) {
    for (i64 i = begin; i < end; i++) {
      const i64 at = i * VL;
      if (at + VL <= n) {
        store(y + at, f(load(x + at)));
      } else {
        store_part(y + at, f(load_part(x + at, static_cast<int>(n - at))), static_cast<int>(n - at));
      }
    }
  });
}

template <typename F>
void map2(i64 n, const float* x, const float* z, float* y, F f) {
  parallel_for(ceil_div(n, VL), kGrain / VL, [&](i64 begin, i64 end, int) {
    for (i64 i = begin; i < end; i++) {
      const i64 at = i * VL;
      if (at + VL <= n) {
        store(y + at, f(load(x + at), load(z + at)));
      } else {
        const int left = static_cast<int>(n - at);
        store_part(y + at, f(load_part(x + at, left), load_part(z + at, left)), left);
      }
    }
  });
}

}  // namespace

void silu(i64 n, const float* x, float* y) {
  map(n, x, y, [](vf v) { return vsilu(v); });
}
void silu_grad(i64 n, const float* x, const float* dy, float* dx) {
  map2(n, x, dy, dx, [](vf v, vf d) { return d * vsilu_slope(v); });
}
void gelu(i64 n, const float* x, float* y) {
  map(n, x, y, [](vf v) { return vgelu(v); });
}
void gelu_grad(i64 n, const float* x, const float* dy, float* dx) {
  map2(n, x, dy, dx, [](vf v, vf d) { return d * vgelu_slope(v); });
}
void exp_values(i64 n, const float* x, float* y) {
  map(n, x, y, [](vf v) { return vexp(v); });
}
void log_values(i64 n, const float* x, float* y) {
  map(n, x, y, [](vf v) { return vlog(v); });
}
void erf_values(i64 n, const float* x, float* y) {
  map(n, x, y, [](vf v) { return verf(v); });
}
void tanh_values(i64 n, const float* x, float* y) {
  map(n, x, y, [](vf v) { return vtanh(v); });
}
void sigmoid_values(i64 n, const float* x, float* y) {
  map(n, x, y, [](vf v) { return vsigmoid(v); });
}

}  // namespace tessera
