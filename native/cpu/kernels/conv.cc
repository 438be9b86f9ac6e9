/** Convolutions: chooses the algorithm for a shape. */
#include "conv.h"

namespace tessera {

void conv_forward(const Conv& conv, const float* x, const float* filter, float* y,
                  const ConvExtra& extra) {
  if (winograd_forward(conv, x, filter, y, extra)) return;
  plain_forward(conv, x, filter, y, extra);
}

void conv_input_grad(const Conv& conv, const float* dy, const float* filter, float* dx,
                     const ConvExtra& extra) {
  if (winograd_input_grad(conv, dy, filter, dx, extra)) return;
  plain_input_grad(conv, dy, filter, dx, extra);
}

void conv_filter_grad(const Conv& conv, const float* x, const float* dy, float* dfilter) {
  if (winograd_filter_grad(conv, x, dy, dfilter)) return;
  plain_filter_grad(conv, x, dy, dfilter);
}

}  // namespace tessera
