/** Matrix products. */
#include "internal.h"

namespace tessera {

void gemm(const Gemm& s, const float* a, const float* b, float* c) {
  const i64 lda = s.lda ? s.lda : s.trans_a ? s.m : s.k;
  const i64 ldb = s.ldb ? s.ldb : s.trans_b ? s.k : s.n;
  const i64 ldc = s.ldc ? s.ldc : s.n;
  parallel_for(s.batch * s.m, 1, [&](i64 begin, i64 end, int thread) {
    float* row = thread_scratch(thread, 0, s.n);
    for (i64 r = begin; r < end; r++) {
      const i64 i = r / s.m, m = r % s.m;
      const float* pa = a + i * s.a_stride;
      const float* pb = b + i * s.b_stride;
      float* pc = c + i * s.c_stride + m * ldc;
      for (i64 n = 0; n < s.n; n++) row[n] = 0;
      for (i64 k = 0; k < s.k; k++) {
        const float value = s.trans_a ? pa[k * lda + m] : pa[m * lda + k];
        for (i64 n = 0; n < s.n; n++) row[n] += value * (s.trans_b ? pb[n * ldb + k] : pb[k * ldb + n]);
      }
      for (i64 n = 0; n < s.n; n++) {
        row[n] = s.alpha * row[n] + (s.bias ? s.bias[n] : 0) + (s.beta != 0 ? s.beta * pc[n] : 0);
      }
      if (s.activation == Activation::silu) silu(s.n, row, row);
      if (s.activation == Activation::gelu) gelu(s.n, row, row);
      for (i64 n = 0; n < s.n; n++) pc[n] = row[n];
    }
  });
}

}  // namespace tessera
