/**
 * Elementary functions of one float32 without branches, so that a loop over them becomes vector code.
 * Polynomials after Cephes (Moshier) and, for erf, Eigen's rational approximation; errors of a few ulp.
 */
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace tessera::exec {

inline float from_bits(std::int32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline std::int32_t to_bits(float x) {
  std::int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

/** 2^n for n in [-127, 127]; anything, but no fault, for what a NaN was turned into. */
inline float power_of_two(std::int32_t n) {
  return from_bits(static_cast<std::int32_t>((static_cast<std::uint32_t>(n) + 127u) << 23));
}

inline float v_exp(float x) {
  const float inf = std::numeric_limits<float>::infinity();
  float t = x < -88.0f ? -88.0f : x;
  t = t > 88.8f ? 88.8f : t;
  const float n = std::nearbyint(t * 1.44269504088896341f);
  float r = t - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n as two factors: n may be 128.
  const std::int32_t whole = static_cast<std::int32_t>(n);
  const std::int32_t half = whole >> 1;
  float y = p * power_of_two(half) * power_of_two(whole - half);
  y = x < -87.33f ? 0.0f : y;
  y = x > 88.72284f ? inf : y;
  return x != x ? x : y;
}

inline float v_log(float x) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::int32_t bits = to_bits(x);
  std::int32_t exponent = ((bits >> 23) & 0xff) - 126;
  float m = from_bits((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  const bool low = m < 0.707106781186547524f;
  exponent = low ? exponent - 1 : exponent;
  m = low ? m + m - 1.0f : m - 1.0f;
  const float e = static_cast<float>(exponent);
  const float z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float y = p * m * z;
  y = y + e * -2.12194440e-4f;
  y = y - 0.5f * z;
  y = m + y;
  y = y + e * 0.693359375f;
  y = x < 1.17549435e-38f ? -inf : y;  // zero and what counts as zero
  y = x < 0.0f ? std::numeric_limits<float>::quiet_NaN() : y;
  y = x == inf ? inf : y;
  return x != x ? x : y;
}

inline float v_sigmoid(float x) { return 1.0f / (1.0f + v_exp(-x)); }

inline float v_tanh(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near = p * z * x + x;
  const float a = std::fabs(x);
  const float far = 1.0f - 2.0f / (v_exp(a + a) + 1.0f);
  return a < 0.625f ? near : std::copysign(far, x);
}

inline float v_erf(float value) {
  float x = value > 4.0f ? 4.0f : value;
  x = x < -4.0f ? -4.0f : x;
  const float z = x * x;
  float p = -2.72614225801306e-10f;
  p = p * z + 2.77068142495902e-08f;
  p = p * z - 2.10102402082508e-06f;
  p = p * z - 5.69250639462346e-05f;
  p = p * z - 7.34990630326855e-04f;
  p = p * z - 2.95459980854025e-03f;
  p = p * z - 1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * z - 2.13374055278905e-04f;
  q = q * z - 1.68282697438203e-03f;
  q = q * z - 7.37332916720468e-03f;
  q = q * z - 1.42647390514189e-02f;
  return x * p / q;
}

/** log(1 + x), exact near 0 (Kahan's correction of the rounding of 1 + x). */
inline float v_log1p(float x) {
  const float u = 1.0f + x;
  const float corrected = v_log(u) - ((u - 1.0f) - x) / u;
  const float y = u == 1.0f ? x : corrected;
  return x == std::numeric_limits<float>::infinity() || !(u > 0.0f) ? v_log(u) : y;
}

/** exp(x) - 1, exact near 0. */
inline float v_expm1(float x) {
  const float u = v_exp(x);
  const float less = u - 1.0f;
  const float corrected = less * x / v_log(u);
  float y = u == 1.0f ? x : corrected;
  y = std::fabs(x) > 1.0f ? less : y;
  return y;
}

inline float v_softplus(float x) {
  const float a = std::fabs(x);
  return (x > 0.0f ? x : 0.0f) + v_log1p(v_exp(-a));
}

inline float v_silu(float x) { return x / (1.0f + v_exp(-x)); }

/** d silu: σ (1 + x (1 - σ)). */
inline float v_silu_slope(float x) {
  const float s = v_sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

inline float v_cdf(float x) { return 0.5f + 0.5f * v_erf(x * 0.70710678118654752f); }
inline float v_gelu(float x) { return x * v_cdf(x); }
/** d gelu: Φ(x) + x φ(x). */
inline float v_gelu_slope(float x) {
  return v_cdf(x) + x * 0.39894228040143268f * v_exp(-0.5f * x * x);
}

}  // namespace tessera::exec
