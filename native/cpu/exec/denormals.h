/** Arithmetic on denormal numbers is a hundred times slower than on zero: they count as zero. */
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace tessera::exec {

/** While it lives, denormal results and operands of this thread are zero. */
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" ::"r"(before_ | (1ull << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(before_)); }

 private:
  unsigned long long before_ = 0;
#endif
};

}  // namespace tessera::exec
