/** The algorithms behind the convolutions of kernels.h. */
#pragma once

#include "internal.h"

namespace tessera {

void plain_forward(const Conv&, const float* x, const float* filter, float* y, const ConvExtra&);
void plain_input_grad(const Conv&, const float* dy, const float* filter, float* dx, const ConvExtra&);
void plain_filter_grad(const Conv&, const float* x, const float* dy, float* dfilter);

}  // namespace tessera
