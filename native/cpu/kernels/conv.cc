/** Convolutions: chooses the algorithm for a shape. */
#include "conv.h"

#include <algorithm>

namespace tessera {
namespace {

/** A 1×1×1 convolution of all channels: a product. */
bool pointwise(const Conv& c) {
  bool one = c.groups == 1;
  for (int a = 0; a < 3; a++) {
    one = one && c.kernel[a] == 1 && c.stride[a] == 1 && c.pad[a] == 0 && c.in[a] == c.out[a];
  }
  return one;
}

i64 positions(const Conv& c) { return c.batch * c.in[0] * c.in[1] * c.in[2]; }

void product(i64 rows, i64 n, i64 k, bool trans, const float* x, const float* filter, float* y,
             const ConvExtra& extra) {
  Gemm g;
  g.m = rows;
  g.n = n;
  g.k = k;
  g.trans_b = trans;
  g.bias = extra.bias;
  if (extra.residual) {
    if (extra.residual != y) {
      parallel_for(rows, 1024, [&](i64 begin, i64 end, int) {
        std::copy(extra.residual + begin * n, extra.residual + end * n, y + begin * n);
      });
    }
    g.beta = 1;
  }
  gemm(g, x, filter, y);
}

}  // namespace

void conv_forward(const Conv& conv, const float* x, const float* filter, float* y,
                  const ConvExtra& extra) {
  if (pointwise(conv)) return product(positions(conv), conv.co, conv.ci, false, x, filter, y, extra);
  if (winograd_forward(conv, x, filter, y, extra)) return;
  if (direct_forward(conv, x, filter, y, extra)) return;
  plain_forward(conv, x, filter, y, extra);
}

void conv_input_grad(const Conv& conv, const float* dy, const float* filter, float* dx,
                     const ConvExtra& extra) {
  if (pointwise(conv)) return product(positions(conv), conv.ci, conv.co, true, dy, filter, dx, extra);
  if (winograd_input_grad(conv, dy, filter, dx, extra)) return;
  if (direct_input_grad(conv, dy, filter, dx, extra)) return;
  plain_input_grad(conv, dy, filter, dx, extra);
}

void conv_filter_grad(const Conv& conv, const float* x, const float* dy, float* dfilter) {
  if (winograd_filter_grad(conv, x, dy, dfilter)) return;
  if (direct_filter_grad(conv, x, dy, dfilter)) return;
  plain_filter_grad(conv, x, dy, dfilter);
}

}  // namespace tessera
