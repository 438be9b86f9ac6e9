/** The algorithms behind the convolutions of kernels.h. */
#pragma once

#include "internal.h"

namespace tessera {

/** Any shape, slowly. */
void plain_forward(const Conv&, const float* x, const float* filter, float* y, const ConvExtra&);
void plain_input_grad(const Conv&, const float* dy, const float* filter, float* dx, const ConvExtra&);
void plain_filter_grad(const Conv&, const float* x, const float* dy, float* dfilter);

/** Fast bilinear algorithms; false where they do not apply or do not pay. */
bool winograd_forward(const Conv&, const float* x, const float* filter, float* y, const ConvExtra&);
bool winograd_input_grad(const Conv&, const float* dy, const float* filter, float* dx, const ConvExtra&);
bool winograd_filter_grad(const Conv&, const float* x, const float* dy, float* dfilter);

/** One group without dilation, any kernel and strides: products of rows of pixels with the filter. */
bool direct_forward(const Conv&, const float* x, const float* filter, float* y, const ConvExtra&);
bool direct_input_grad(const Conv&, const float* dy, const float* filter, float* dx, const ConvExtra&);
bool direct_filter_grad(const Conv&, const float* x, const float* dy, float* dfilter);

/** Taps reversed and channels swapped: [taps, ci, co] to [taps, co, ci], in scratch. One group. */
const float* reversed_filter(const Conv&, const float* filter);

}  // namespace tessera
