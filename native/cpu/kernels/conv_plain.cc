/** Convolutions by plain loops: any shape, dilation and groups. Fast paths take what they can before. */
#include "conv.h"

namespace tessera {
namespace {

struct Group {
  i64 ci, co;  // channels a group
};

/** The output positions of an axis that read input position `at` through tap `a`: one or none. */
inline bool source(i64 at, i64 a, i64 axis, const Conv& c, i64* out) {
  const i64 t = at + c.pad[axis] - a * c.dilation[axis];
  if (t < 0 || t % c.stride[axis] != 0) return false;
  *out = t / c.stride[axis];
  return *out < c.out[axis];
}

}  // namespace

void plain_forward(const Conv& c, const float* x, const float* f, float* y, const ConvExtra& extra) {
  const Group g{c.ci / c.groups, c.co / c.groups};
  const i64 rows = c.batch * c.out[0] * c.out[1] * c.out[2];
  parallel_for(rows, 64, [&](i64 begin, i64 end, int thread) {
    float* acc = thread_scratch(thread, 0, c.co);
    for (i64 row = begin; row < end; row++) {
      const i64 ow = row % c.out[2], oh = row / c.out[2] % c.out[1];
      const i64 ot = row / (c.out[2] * c.out[1]) % c.out[0], b = row / (c.out[2] * c.out[1] * c.out[0]);
      for (i64 o = 0; o < c.co; o++) acc[o] = extra.bias ? extra.bias[o] : 0;
      for (i64 kt = 0; kt < c.kernel[0]; kt++) {
        const i64 t = ot * c.stride[0] + kt * c.dilation[0] - c.pad[0];
        if (t < 0 || t >= c.in[0]) continue;
        for (i64 kh = 0; kh < c.kernel[1]; kh++) {
          const i64 h = oh * c.stride[1] + kh * c.dilation[1] - c.pad[1];
          if (h < 0 || h >= c.in[1]) continue;
          for (i64 kw = 0; kw < c.kernel[2]; kw++) {
            const i64 w = ow * c.stride[2] + kw * c.dilation[2] - c.pad[2];
            if (w < 0 || w >= c.in[2]) continue;
            const float* px = x + (((b * c.in[0] + t) * c.in[1] + h) * c.in[2] + w) * c.ci;
            const float* pf = f + ((kt * c.kernel[1] + kh) * c.kernel[2] + kw) * g.ci * c.co;
            for (i64 group = 0; group < c.groups; group++) {
              for (i64 i = 0; i < g.ci; i++) {
                const float value = px[group * g.ci + i];
                const float* row_f = pf + i * c.co + group * g.co;
                float* row_y = acc + group * g.co;
                for (i64 o = 0; o < g.co; o++) row_y[o] += value * row_f[o];
              }
            }
          }
        }
      }
      for (i64 o = 0; o < c.co; o++) {
        y[row * c.co + o] = acc[o] + (extra.residual ? extra.residual[row * c.co + o] : 0);
      }
    }
  });
}

void plain_input_grad(const Conv& c, const float* dy, const float* f, float* dx,
                      const ConvExtra& extra) {
  const Group g{c.ci / c.groups, c.co / c.groups};
  const i64 rows = c.batch * c.in[0] * c.in[1] * c.in[2];
  parallel_for(rows, 64, [&](i64 begin, i64 end, int thread) {
    float* acc = thread_scratch(thread, 0, c.ci);
    for (i64 row = begin; row < end; row++) {
      const i64 w = row % c.in[2], h = row / c.in[2] % c.in[1];
      const i64 t = row / (c.in[2] * c.in[1]) % c.in[0], b = row / (c.in[2] * c.in[1] * c.in[0]);
      for (i64 i = 0; i < c.ci; i++) acc[i] = extra.bias ? extra.bias[i] : 0;
      for (i64 kt = 0; kt < c.kernel[0]; kt++) {
        i64 ot, oh, ow;
        if (!source(t, kt, 0, c, &ot)) continue;
        for (i64 kh = 0; kh < c.kernel[1]; kh++) {
          if (!source(h, kh, 1, c, &oh)) continue;
          for (i64 kw = 0; kw < c.kernel[2]; kw++) {
            if (!source(w, kw, 2, c, &ow)) continue;
            const float* py = dy + (((b * c.out[0] + ot) * c.out[1] + oh) * c.out[2] + ow) * c.co;
            const float* pf = f + ((kt * c.kernel[1] + kh) * c.kernel[2] + kw) * g.ci * c.co;
            for (i64 group = 0; group < c.groups; group++) {
              for (i64 i = 0; i < g.ci; i++) {
                const float* row_f = pf + i * c.co + group * g.co;
                const float* row_y = py + group * g.co;
                float total = 0;
                for (i64 o = 0; o < g.co; o++) total += row_y[o] * row_f[o];
                acc[group * g.ci + i] += total;
              }
            }
          }
        }
      }
      for (i64 i = 0; i < c.ci; i++) {
        dx[row * c.ci + i] = acc[i] + (extra.residual ? extra.residual[row * c.ci + i] : 0);
      }
    }
  });
}

void plain_filter_grad(const Conv& c, const float* x, const float* dy, float* df) {
  const Group g{c.ci / c.groups, c.co / c.groups};
  const i64 rows = c.kernel[0] * c.kernel[1] * c.kernel[2] * g.ci;
  parallel_for(rows, 1, [&](i64 begin, i64 end, int) {
    for (i64 row = begin; row < end; row++) {
      const i64 i = row % g.ci, tap = row / g.ci;
      const i64 kw = tap % c.kernel[2], kh = tap / c.kernel[2] % c.kernel[1];
      const i64 kt = tap / (c.kernel[2] * c.kernel[1]);
      float* out = df + row * c.co;
      for (i64 o = 0; o < c.co; o++) out[o] = 0;
      for (i64 b = 0; b < c.batch; b++) {
        for (i64 ot = 0; ot < c.out[0]; ot++) {
          const i64 t = ot * c.stride[0] + kt * c.dilation[0] - c.pad[0];
          if (t < 0 || t >= c.in[0]) continue;
          for (i64 oh = 0; oh < c.out[1]; oh++) {
            const i64 h = oh * c.stride[1] + kh * c.dilation[1] - c.pad[1];
            if (h < 0 || h >= c.in[1]) continue;
            for (i64 ow = 0; ow < c.out[2]; ow++) {
              const i64 w = ow * c.stride[2] + kw * c.dilation[2] - c.pad[2];
              if (w < 0 || w >= c.in[2]) continue;
              const float* px = x + (((b * c.in[0] + t) * c.in[1] + h) * c.in[2] + w) * c.ci;
              const float* py = dy + (((b * c.out[0] + ot) * c.out[1] + oh) * c.out[2] + ow) * c.co;
              for (i64 group = 0; group < c.groups; group++) {
                const float value = px[group * g.ci + i];
                for (i64 o = group * g.co; o < (group + 1) * g.co; o++) out[o] += value * py[o];
              }
            }
          }
        }
      }
    }
  });
}

}  // namespace tessera
