/**
 * Vectors of floats by the compiler's own vector types, as wide as the target's registers, and the few
 * operations that need an instruction by name. Nothing here depends on -ffast-math or -ffp-contract.
 */
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tessera {

#if defined(__AVX512F__)
constexpr int VL = 16;
#elif defined(__AVX__)
constexpr int VL = 8;
#else
constexpr int VL = 4;
#endif

typedef float vf __attribute__((vector_size(VL * 4), aligned(VL * 4), may_alias));
typedef std::int32_t vi __attribute__((vector_size(VL * 4), aligned(VL * 4), may_alias));
typedef float vf_any __attribute__((vector_size(VL * 4), aligned(4), may_alias));

#define TESSERA_INLINE inline __attribute__((always_inline))

TESSERA_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
TESSERA_INLINE void store(float* p, vf x) { *reinterpret_cast<vf_any*>(p) = x; }
TESSERA_INLINE vf set1(float x) { return x - vf{}; }
TESSERA_INLINE vi set1i(std::int32_t x) { return x - vi{}; }
TESSERA_INLINE vi bits(vf x) { return reinterpret_cast<vi&>(x); }
TESSERA_INLINE vf from_bits(vi x) { return reinterpret_cast<vf&>(x); }

/** The first n < VL values, zeros behind. */
TESSERA_INLINE vf load_part(const float* p, int n) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#else
  vf x{};
  std::memcpy(&x, p, static_cast<std::size_t>(n) * 4);
  return x;
#endif
}
TESSERA_INLINE void store_part(float* p, vf x, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)x);
#else
  std::memcpy(p, &x, static_cast<std::size_t>(n) * 4);
#endif
}

/** a · b + c. */
TESSERA_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX__) && defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

TESSERA_INLINE vf vsqrt(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_sqrt_ps(static_cast<__mmask16>(-1), (__m512)x);
#elif defined(__AVX__)
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < VL; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

TESSERA_INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
TESSERA_INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
TESSERA_INLINE vf vabs(vf x) { return from_bits(bits(x) & set1i(0x7fffffff)); }
TESSERA_INLINE vf copysign(vf size, vf sign) {
  return from_bits((bits(size) & set1i(0x7fffffff)) | (bits(sign) & set1i(INT32_MIN)));
}

/** Sum in a fixed order (a tree). */
TESSERA_INLINE float sum(vf x) {
  float s[VL];
  std::memcpy(s, &x, sizeof x);
  for (int w = VL / 2; w > 0; w /= 2) {
    for (int i = 0; i < w; i++) s[i] += s[i + w];
  }
  return s[0];
}
/**
 * The sums of VL vectors, that of vector i in lane i: each step halves the vectors, a lane's bit W
 * saying which of the two it comes from.
 */
template <int W = 1>
TESSERA_INLINE vf sums(vf* v) {
#if defined(__clang__)  // its shuffles take constants only
  vf all;
  for (int i = 0; i < VL; i++) all[i] = sum(v[i]);
  return all;
#else
  if constexpr (W == VL) {
    return v[0];
  } else {
    vi same, other;
    for (int i = 0; i < VL; i++) {
      same[i] = (i & W) ? VL + i : i;
      other[i] = (i & W) ? VL + (i ^ W) : (i ^ W);
    }
    for (int i = 0; i < VL / (2 * W); i++) {
      v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], same) + __builtin_shuffle(v[2 * i], v[2 * i + 1], other);
    }
    return sums<2 * W>(v);
  }
#endif
}
TESSERA_INLINE float largest(vf x) {
  float s[VL];
  std::memcpy(s, &x, sizeof x);
  for (int w = VL / 2; w > 0; w /= 2) {
    for (int i = 0; i < w; i++) s[i] = s[i + w] > s[i] ? s[i + w] : s[i];
  }
  return s[0];
}

// --- Functions; relative errors are of a few 1e-8 where not said otherwise ----------------------

/** e^x; 0 below -104, infinity above 88.8; NaN stays. */
TESSERA_INLINE vf vexp(vf x) {
  x = x < set1(-105.0f) ? set1(-105.0f) : x;
  x = x > set1(90.0f) ? set1(90.0f) : x;
  const vf magic = set1(12582912.0f);  // 1.5 · 2^23: rounds to an integer in the low bits
  const vf shifted = fma(x, set1(1.44269504088896341f), magic);
  const vf n = shifted - magic;
  const vf r = fma(n, set1(-1.42860677e-6f), fma(n, set1(-0.693145752f), x));  // ln 2 in two parts
  vf p = set1(1.991797025e-04f);
  p = fma(p, r, set1(1.394618977e-03f));
  p = fma(p, r, set1(8.333265168e-03f));
  p = fma(p, r, set1(4.166626826e-02f));
  p = fma(p, r, set1(1.666666686e-01f));
  p = fma(p, r, set1(5.000000078e-01f));
  p = fma(p * r, r, r) + 1.0f;
  // 2^n in two halves, so that results below the smallest normal number are reached.
  const vi k = bits(shifted) - bits(magic);
  const vi half = k >> 1;
  return p * from_bits((half + 127) << 23) * from_bits((k - half + 127) << 23);
}

/** Natural logarithm; -infinity at 0, NaN below. */
TESSERA_INLINE vf vlog(vf x) {
  const vi tiny = x < set1(1.17549435e-38f);
  const vf scaled = tiny ? x * 8388608.0f : x;
  // mantissa in [sqrt(1/2), sqrt(2))
  const vi e = (bits(scaled) - set1i(0x3f3504f3)) >> 23;
  const vf m = from_bits(bits(scaled) - (e << 23));
  const vf n = __builtin_convertvector(e, vf) - (tiny ? set1(23.0f) : set1(0.0f));
  // log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.1716
  const vf f = m - 1.0f;
  const vf s = f / (m + 1.0f);
  const vf s2 = s * s;
  vf p = set1(2.358425572e-01f);
  p = fma(p, s2, set1(2.853720424e-01f));
  p = fma(p, s2, set1(4.000033672e-01f));
  p = fma(p, s2, set1(6.666666564e-01f));
  // log m = f - s (f - s2 p): exact in the leading term
  vf y = f - s * (f - s2 * p);
  y = fma(n, set1(1.42860677e-6f), y);
  y = fma(n, set1(0.693145752f), y);
  y = x > set1(3.4028235e38f) ? x : y;
  const float inf = __builtin_inff();
  y = x == set1(0.0f) ? set1(-inf) : y;
  return (x < set1(0.0f)) | (x != x) ? set1(__builtin_nanf("")) : y;
}

TESSERA_INLINE vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }

/** tanh, with a series near 0. */
TESSERA_INLINE vf vtanh(vf x) {
  const vf a = vabs(x);
  const vf t = x * x;
  vf p = set1(-6.282466720e-03f);
  p = fma(p, t, set1(2.107775339e-02f));
  p = fma(p, t, set1(-5.385385664e-02f));
  p = fma(p, t, set1(1.333260167e-01f));
  p = fma(p, t, set1(-3.333331805e-01f));
  const vf small = fma(p * t, x, x);
  const vf e = vexp(a + a);
  const vf big = copysign(1.0f - 2.0f / (e + 1.0f), x);
  return a < set1(0.55f) ? small : big;
}

/** Polynomials fitted to erf(x) / x in x² below 1, and to log erfc(x) up to 4, where erf becomes 1. */
TESSERA_INLINE vf verf(vf x) {
  const vf a = vabs(x);
  const vf s = x * x;
  vf p = set1(7.889119529e-05f);
  p = fma(p, s, set1(-8.020841279e-04f));
  p = fma(p, s, set1(5.189535339e-03f));
  p = fma(p, s, set1(-2.685444459e-02f));
  p = fma(p, s, set1(1.128360018e-01f));
  p = fma(p, s, set1(-3.761262714e-01f));
  p = fma(p, s, set1(1.128379166e+00f));
  const vf t = a > set1(4.0f) ? set1(4.0f) : a;
  vf q = set1(-2.169763939e-05f);
  q = fma(q, t, set1(4.414729214e-04f));
  q = fma(q, t, set1(-4.205285923e-03f));
  q = fma(q, t, set1(2.521034238e-02f));
  q = fma(q, t, set1(-1.084221028e-01f));
  q = fma(q, t, set1(-6.332163948e-01f));
  q = fma(q, t, set1(-1.129580312e+00f));
  q = fma(q, t, set1(1.884678035e-04f));
  const vf big = copysign(1.0f - vexp(q), x);
  return a < set1(1.0f) ? p * x : (x != x ? x : big);
}

TESSERA_INLINE vf vsilu(vf x) { return x / (1.0f + vexp(-x)); }
/** d silu / dx = s (1 + x (1 - s)). */
TESSERA_INLINE vf vsilu_slope(vf x) {
  const vf s = vsigmoid(x);
  return s * fma(x, 1.0f - s, set1(1.0f));
}
TESSERA_INLINE vf vgelu(vf x) { return 0.5f * x * (1.0f + verf(x * 0.70710678118654752f)); }
TESSERA_INLINE vf vgelu_slope(vf x) {
  const vf cdf = 0.5f * (1.0f + verf(x * 0.70710678118654752f));
  return fma(x * 0.39894228040143268f, vexp(-0.5f * x * x), cdf);
}

}  // namespace tessera
