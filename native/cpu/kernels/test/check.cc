/**
 * Every kernel against plain loops in double precision, over random odd shapes. Prints the worst error of
 * each (relative to the largest value of the expected result) and exits 1 above its limit.
 *   check [seed] [rounds] [only]
 */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "../kernels.h"

using namespace tessera;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

namespace {

std::mt19937 rng;
i64 pick(i64 low, i64 high) { return std::uniform_int_distribution<i64>(low, high)(rng); }
bool coin() { return pick(0, 1) == 1; }
Floats random_floats(i64 n, float scale = 1, float shift = 0) {
  std::normal_distribution<float> normal(shift, scale);
  Floats x(static_cast<std::size_t>(n));
  for (auto& v : x) v = normal(rng);
  return x;
}

std::map<std::string, double> worst;
std::map<std::string, std::string> where;
std::string shape_text;

void compare(const std::string& name, const float* got, const Doubles& expected) {
  double largest = 1e-30, error = 0;
  for (double v : expected) largest = std::max(largest, std::fabs(v));
  for (std::size_t i = 0; i < expected.size(); i++) {
    const double e = std::fabs(static_cast<double>(got[i]) - expected[i]);
    error = std::max(error, std::isfinite(e) ? e : 1e30);
  }
  error /= largest;
  if (!worst.count(name) || error > worst[name]) {
    worst[name] = error;
    where[name] = shape_text;
  }
}
void compare(const std::string& name, const Floats& got, const Doubles& expected) {
  compare(name, got.data(), expected);
}

// --- Convolutions --------------------------------------------------------------------------------

template <typename F>
void each_tap(const Conv& c, F f) {  // f(x index, filter index, y index)
  const i64 gi = c.ci / c.groups, go = c.co / c.groups;
  for (i64 b = 0; b < c.batch; b++)
    for (i64 ot = 0; ot < c.out[0]; ot++)
      for (i64 oh = 0; oh < c.out[1]; oh++)
        for (i64 ow = 0; ow < c.out[2]; ow++)
          for (i64 a = 0; a < c.kernel[0]; a++)
            for (i64 e = 0; e < c.kernel[1]; e++)
              for (i64 d = 0; d < c.kernel[2]; d++) {
                const i64 t = ot * c.stride[0] + a * c.dilation[0] - c.pad[0];
                const i64 h = oh * c.stride[1] + e * c.dilation[1] - c.pad[1];
                const i64 w = ow * c.stride[2] + d * c.dilation[2] - c.pad[2];
                if (t < 0 || h < 0 || w < 0 || t >= c.in[0] || h >= c.in[1] || w >= c.in[2]) continue;
                const i64 px = (((b * c.in[0] + t) * c.in[1] + h) * c.in[2] + w) * c.ci;
                const i64 py = (((b * c.out[0] + ot) * c.out[1] + oh) * c.out[2] + ow) * c.co;
                const i64 pf = ((a * c.kernel[1] + e) * c.kernel[2] + d) * gi * c.co;
                for (i64 g = 0; g < c.groups; g++)
                  for (i64 i = 0; i < gi; i++)
                    for (i64 o = 0; o < go; o++)
                      f(px + g * gi + i, pf + i * c.co + g * go + o, py + g * go + o);
              }
}

void conv_case(Conv c, const std::string& name) {
  char text[200];
  std::snprintf(text, sizeof text, "b%ld %ldx%ldx%ldx%ld -> %ldx%ldx%ldx%ld k%ld%ld%ld s%ld%ld%ld p%ld,%ld,%ld d%ld%ld%ld g%ld e%d",
                (long)c.batch, (long)c.in[0], (long)c.in[1], (long)c.in[2], (long)c.ci, (long)c.out[0],
                (long)c.out[1], (long)c.out[2], (long)c.co, (long)c.kernel[0], (long)c.kernel[1],
                (long)c.kernel[2], (long)c.stride[0], (long)c.stride[1], (long)c.stride[2], (long)c.pad[0],
                (long)c.pad[1], (long)c.pad[2], (long)c.dilation[0], (long)c.dilation[1],
                (long)c.dilation[2], (long)c.groups, (int)c.exact);
  shape_text = text;
  const i64 nx = c.batch * c.in[0] * c.in[1] * c.in[2] * c.ci;
  const i64 ny = c.batch * c.out[0] * c.out[1] * c.out[2] * c.co;
  const i64 nf = c.kernel[0] * c.kernel[1] * c.kernel[2] * c.ci / c.groups * c.co;
  const Floats x = random_floats(nx), f = random_floats(nf), dy = random_floats(ny);
  const Floats bias_y = random_floats(c.co), bias_x = random_floats(c.ci);
  const Floats rest_y = random_floats(ny), rest_x = random_floats(nx);
  Doubles ey(ny, 0.0), ex(nx, 0.0), ef(nf, 0.0);
  each_tap(c, [&](i64 px, i64 pf, i64 py) {
    ey[py] += static_cast<double>(x[px]) * f[pf];
    ex[px] += static_cast<double>(dy[py]) * f[pf];
    ef[pf] += static_cast<double>(x[px]) * dy[py];
  });
  Floats y(ny, 7.0f), dx(nx, 7.0f), df(nf, 7.0f);
  conv_forward(c, x.data(), f.data(), y.data());
  compare(name + " forward", y, ey);
  conv_input_grad(c, dy.data(), f.data(), dx.data());
  compare(name + " input grad", dx, ex);
  conv_filter_grad(c, x.data(), dy.data(), df.data());
  compare(name + " filter grad", df, ef);
  for (i64 i = 0; i < ny; i++) ey[i] += bias_y[i % c.co] + rest_y[i];
  for (i64 i = 0; i < nx; i++) ex[i] += bias_x[i % c.ci] + rest_x[i];
  y = rest_y;
  conv_forward(c, x.data(), f.data(), y.data(), {bias_y.data(), y.data()});
  compare(name + " forward + extra", y, ey);
  conv_input_grad(c, dy.data(), f.data(), dx.data(), {bias_x.data(), rest_x.data()});
  compare(name + " input grad + extra", dx, ex);
}

i64 channels() {
  static const i64 some[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, 24, 31, 32, 33, 48, 64, 70, 96, 130};
  return some[pick(0, 17)];
}

void convolutions() {
  {
    Conv c;  // anything
    c.batch = pick(1, 2);
    c.groups = coin() ? 1 : pick(1, 4);
    c.ci = c.groups * pick(1, 5);
    c.co = c.groups * pick(1, 5);
    for (int a = 0; a < 3; a++) {
      c.kernel[a] = pick(1, 4);
      c.stride[a] = pick(1, 3);
      c.dilation[a] = coin() ? 1 : pick(1, 3);
      c.pad[a] = pick(-1, 3);
      c.out[a] = pick(1, 6);
      c.in[a] = std::max<i64>(1, (c.out[a] - 1) * c.stride[a] + (c.kernel[a] - 1) * c.dilation[a] + 1 - c.pad[a] - pick(0, 3));
    }
    c.exact = coin();
    conv_case(c, "conv any");
  }
  {
    Conv c;  // strided, padded as models do it
    c.batch = pick(1, 2);
    c.ci = channels();
    c.co = channels();
    for (int a = 0; a < 3; a++) {
      c.kernel[a] = pick(1, 3);
      c.stride[a] = pick(1, 2);
      c.in[a] = pick(1, 11);
      const i64 total = pick(c.kernel[a] - 1, c.kernel[a] + 1);
      c.pad[a] = pick(0, total);
      c.out[a] = (c.in[a] + total - c.kernel[a]) / c.stride[a] + 1;
    }
    c.exact = coin();
    conv_case(c, "conv strided");
  }
  {
    Conv c;  // 3x3x3 and 1x3x3, causal or not
    c.batch = pick(1, 2);
    c.ci = channels();
    c.co = channels();
    c.in[0] = pick(1, 9);
    c.in[1] = pick(1, 13);
    c.in[2] = pick(1, 17);
    for (int a = 0; a < 3; a++) {
      c.kernel[a] = 3;
      c.pad[a] = a == 0 && coin() ? 2 : 1;
      c.out[a] = c.in[a];
    }
    if (pick(0, 3) == 0) {
      c.kernel[0] = 1;
      c.pad[0] = 0;
    }
    c.exact = pick(0, 3) == 0;
    conv_case(c, "conv 3x3x3");
  }
  {
    Conv c;  // pointwise
    c.batch = pick(1, 2);
    c.ci = channels();
    c.co = channels();
    for (int a = 0; a < 3; a++) c.in[a] = c.out[a] = pick(1, 9);
    conv_case(c, "conv 1x1x1");
  }
  {
    Conv c;  // depthwise
    c.batch = pick(1, 2);
    c.groups = c.ci = c.co = channels();
    for (int a = 0; a < 3; a++) {
      c.kernel[a] = pick(1, 3);
      c.pad[a] = c.kernel[a] / 2;
      c.in[a] = pick(1, 9);
      c.out[a] = c.in[a] + 2 * c.pad[a] - c.kernel[a] + 1;
    }
    conv_case(c, "conv depthwise");
  }
}

// --- Products ------------------------------------------------------------------------------------

double act(Activation a, double x) {
  if (a == Activation::silu) return x / (1 + std::exp(-x));
  if (a == Activation::gelu) return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
  return x;
}

void products() {
  static const i64 sides[] = {1, 2, 3, 7, 8, 13, 16, 17, 31, 32, 33, 48, 64, 65, 100, 129, 256, 300};
  Gemm g;
  g.m = sides[pick(0, 17)];
  g.n = sides[pick(0, 17)];
  g.k = sides[pick(0, 17)];
  if (pick(0, 9) == 0) g.m = 1;
  if (pick(0, 19) == 0) g.k = 0;
  if (pick(0, 9) == 0) g.k = pick(500, 1200);
  g.batch = g.m * g.n * g.k > 1000000 ? 1 : pick(1, 3);
  g.trans_a = coin();
  g.trans_b = coin();
  const i64 extra = coin() ? 0 : pick(1, 9);
  const i64 ca = g.trans_a ? g.m : g.k, ra = g.trans_a ? g.k : g.m;
  const i64 cb = g.trans_b ? g.k : g.n, rb = g.trans_b ? g.n : g.k;
  if (extra) {
    g.lda = ca + extra;
    g.ldb = cb + extra;
    g.ldc = g.n + extra;
  }
  const i64 lda = ca + extra, ldb = cb + extra, ldc = g.n + extra;
  g.alpha = coin() ? 1 : 0.5f;
  g.beta = coin() ? 0 : coin() ? 1 : -0.25f;
  g.a_stride = coin() ? 0 : ra * lda;
  g.b_stride = coin() ? 0 : rb * ldb;
  g.c_stride = g.m * ldc;
  g.activation = static_cast<Activation>(pick(0, 2));
  const Floats a = random_floats(g.batch * ra * lda + 1), b = random_floats(g.batch * rb * ldb + 1);
  const Floats bias = random_floats(g.n);
  if (coin()) g.bias = bias.data();
  Floats c = random_floats(g.batch * g.m * ldc);
  Doubles expected(c.begin(), c.end());
  for (i64 i = 0; i < g.batch; i++)
    for (i64 m = 0; m < g.m; m++)
      for (i64 n = 0; n < g.n; n++) {
        double total = 0;
        for (i64 k = 0; k < g.k; k++) {
          total += static_cast<double>(a[i * g.a_stride + (g.trans_a ? k * lda + m : m * lda + k)]) *
                   b[i * g.b_stride + (g.trans_b ? n * ldb + k : k * ldb + n)];
        }
        double& out = expected[i * g.c_stride + m * ldc + n];
        out = act(g.activation, g.alpha * total + (g.bias ? bias[n] : 0) + (g.beta != 0 ? g.beta * out : 0));
      }
  char text[120];
  std::snprintf(text, sizeof text, "%ldx%ldx%ld ta%d tb%d batch %ld extra %ld", (long)g.m, (long)g.n, (long)g.k,
                g.trans_a, g.trans_b, (long)g.batch, (long)extra);
  shape_text = text;
  gemm(g, a.data(), b.data(), c.data());
  compare("gemm", c, expected);
}

// --- Norms ---------------------------------------------------------------------------------------

void group_norms() {
  GroupNorm s;
  const i64 width = pick(1, 6);
  s.groups = pick(0, 3) == 0 ? 32 : pick(1, 9);
  s.channels = s.groups * width;
  s.batch = coin() ? pick(1, 3) : pick(12, 16);
  s.positions = pick(0, 3) == 0 ? pick(1, 1500) : pick(1, 50);
  s.silu = coin();
  const i64 n = s.batch * s.positions * s.channels;
  const Floats x = random_floats(n, 2, pick(0, 4) == 0 ? 30 : 0.5f), dy = random_floats(n);
  const Floats scale = random_floats(s.channels), shift = random_floats(s.channels);
  const bool affine = pick(0, 3) > 0;
  Doubles ey(n), edx(n), escale(s.channels, 0.0), eshift(s.channels, 0.0);
  for (i64 b = 0; b < s.batch; b++)
    for (i64 g = 0; g < s.groups; g++) {
      double mean = 0, variance = 0;
      const double count = static_cast<double>(s.positions * width);
      const auto at = [&](i64 p, i64 c) { return (b * s.positions + p) * s.channels + g * width + c; };
      for (i64 p = 0; p < s.positions; p++)
        for (i64 c = 0; c < width; c++) mean += x[at(p, c)] / count;
      for (i64 p = 0; p < s.positions; p++)
        for (i64 c = 0; c < width; c++) variance += std::pow(x[at(p, c)] - mean, 2) / count;
      const double r = 1 / std::sqrt(variance + s.epsilon);
      double m1 = 0, m2 = 0;
      for (int pass = 0; pass < 2; pass++)
        for (i64 p = 0; p < s.positions; p++)
          for (i64 c = 0; c < width; c++) {
            const i64 k = g * width + c;
            const double normal = (x[at(p, c)] - mean) * r;
            const double u = affine ? normal * scale[k] + shift[k] : normal;
            const double sig = 1 / (1 + std::exp(-u));
            const double du = dy[at(p, c)] * (s.silu ? sig * (1 + u * (1 - sig)) : 1);
            const double dn = du * (affine ? scale[k] : 1);
            if (pass == 0) {
              ey[at(p, c)] = s.silu ? u * sig : u;
              m1 += dn / count;
              m2 += dn * normal / count;
              escale[k] += du * normal;
              eshift[k] += du;
            } else {
              edx[at(p, c)] = r * (dn - m1 - normal * m2);
            }
          }
    }
  shape_text = "b" + std::to_string(s.batch) + " p" + std::to_string(s.positions) + " c" + std::to_string(s.channels) + " g" + std::to_string(s.groups);
  Floats y(n), dx(n), dscale(s.channels), dshift(s.channels), mean(s.batch * s.groups), rstd(s.batch * s.groups);
  const float *ps = affine ? scale.data() : nullptr, *pt = affine ? shift.data() : nullptr;
  group_norm(s, x.data(), ps, pt, y.data(), mean.data(), rstd.data());
  compare("group norm", y, ey);
  const bool known = coin();
  group_norm_grad(s, x.data(), ps, pt, dy.data(), dx.data(), dscale.data(), dshift.data(),
                  known ? mean.data() : nullptr, known ? rstd.data() : nullptr);
  if (s.positions * width > 4) compare("group norm dx", dx, edx);
  compare("group norm dscale", dscale, escale);
  compare("group norm dshift", dshift, eshift);
  Floats place = dy;
  group_norm_grad(s, x.data(), ps, pt, place.data(), place.data(), nullptr, nullptr);
  if (s.positions * width > 4) compare("group norm dx in place", place, edx);
}

void layer_norms() {
  const i64 rows = pick(1, 200), c = pick(2, 300);
  const Floats x = random_floats(rows * c, 2, 1), dy = random_floats(rows * c), scale = random_floats(c), shift = random_floats(c);
  Doubles ey(rows * c), edx(rows * c), es(c, 0.0), et(c, 0.0);
  for (i64 r = 0; r < rows; r++) {
    double mean = 0, variance = 0, m1 = 0, m2 = 0;
    for (i64 i = 0; i < c; i++) mean += x[r * c + i] / static_cast<double>(c);
    for (i64 i = 0; i < c; i++) variance += std::pow(x[r * c + i] - mean, 2) / static_cast<double>(c);
    const double s = 1 / std::sqrt(variance + 1e-6f);
    for (i64 i = 0; i < c; i++) {
      const double normal = (x[r * c + i] - mean) * s, g = dy[r * c + i] * static_cast<double>(scale[i]);
      ey[r * c + i] = normal * scale[i] + shift[i];
      m1 += g / static_cast<double>(c);
      m2 += g * normal / static_cast<double>(c);
      es[i] += dy[r * c + i] * normal;
      et[i] += dy[r * c + i];
    }
    for (i64 i = 0; i < c; i++) {
      const double normal = (x[r * c + i] - mean) * s, g = dy[r * c + i] * static_cast<double>(scale[i]);
      edx[r * c + i] = s * (g - m1 - normal * m2);
    }
  }
  shape_text = std::to_string(rows) + "x" + std::to_string(c);
  Floats y(rows * c), dx(rows * c), ds(c), dt(c), mean(rows), rstd(rows);
  layer_norm(rows, c, 1e-6f, x.data(), scale.data(), shift.data(), y.data(), mean.data(), rstd.data());
  compare("layer norm", y, ey);
  const bool known = coin();
  layer_norm_grad(rows, c, 1e-6f, x.data(), scale.data(), dy.data(), dx.data(), ds.data(), dt.data(),
                  known ? mean.data() : nullptr, known ? rstd.data() : nullptr);
  compare("layer norm dx", dx, edx);
  compare("layer norm dscale", ds, es);
  compare("layer norm dshift", dt, et);
}

// --- Rows ----------------------------------------------------------------------------------------

void rows_of() {
  const i64 rows = pick(1, 40), n = pick(1, 3) == 1 ? pick(1, 3000) : pick(1, 70);
  const float size = pick(0, 5) == 0 ? 40 : 3;
  const Floats x = random_floats(rows * n, size), dy = random_floats(rows * n), weight = random_floats(rows), dloss = random_floats(rows);
  std::vector<std::int32_t> labels(rows);
  for (auto& l : labels) l = static_cast<std::int32_t>(pick(0, 12) == 0 ? -1 : pick(0, n - 1));
  const float smoothing = coin() ? 0 : 0.1f;
  const bool weighted = coin();
  Doubles p(rows * n), lp(rows * n), dp(rows * n), dlp(rows * n), loss(rows), dl(rows * n);
  for (i64 r = 0; r < rows; r++) {
    double m = -1e300, z = 0, inner = 0, total = 0;
    for (i64 i = 0; i < n; i++) m = std::max(m, static_cast<double>(x[r * n + i]));
    for (i64 i = 0; i < n; i++) z += std::exp(x[r * n + i] - m);
    for (i64 i = 0; i < n; i++) {
      lp[r * n + i] = x[r * n + i] - m - std::log(z);
      p[r * n + i] = std::exp(lp[r * n + i]);
      inner += p[r * n + i] * dy[r * n + i];
      total += dy[r * n + i];
    }
    const double w = weighted ? weight[r] : 1;
    for (i64 i = 0; i < n; i++) {
      dp[r * n + i] = p[r * n + i] * (dy[r * n + i] - inner);
      dlp[r * n + i] = dy[r * n + i] - p[r * n + i] * total;
      const double target = (i == labels[r] ? 1 - smoothing : 0) + smoothing / static_cast<double>(n);
      if (labels[r] >= 0) {
        loss[r] -= w * target * lp[r * n + i];
        dl[r * n + i] = w * dloss[r] * (p[r * n + i] - target);
      }
    }
  }
  shape_text = std::to_string(rows) + "x" + std::to_string(n);
  Floats y(rows * n), g(rows * n), l(rows);
  softmax(rows, n, x.data(), y.data());
  compare("softmax", y, p);
  softmax_grad(rows, n, y.data(), dy.data(), g.data());
  if (size < 10) compare("softmax grad", g, dp);  // a saturated row has nothing but rounding left
  log_softmax(rows, n, x.data(), y.data());
  compare("log softmax", y, lp);
  log_softmax_grad(rows, n, y.data(), dy.data(), g.data());
  compare("log softmax grad", g, dlp);
  softmax_cross_entropy(rows, n, x.data(), labels.data(), smoothing, weighted ? weight.data() : nullptr, l.data());
  compare("cross entropy", l, loss);
  softmax_cross_entropy_grad(rows, n, x.data(), labels.data(), smoothing, weighted ? weight.data() : nullptr,
                             dloss.data(), g.data());
  compare("cross entropy grad", g, dl);
}

void values() {
  const i64 n = pick(1, 20000);
  const Floats x = random_floats(n, 4), dy = random_floats(n);
  shape_text = std::to_string(n);
  const auto one = [&](const std::string& name, void (*f)(i64, const float*, float*), double (*g)(double), bool positive) {
    Floats in = x, out(n);
    if (positive)
      for (auto& v : in) v = (std::fabs(v) + 1e-6f) * std::exp2(static_cast<float>(pick(-20, 20)));
    f(n, in.data(), out.data());
    // relative to each value
    Floats ratio(n);
    Doubles ones(n, 1.0);
    for (i64 i = 0; i < n; i++) {
      const double e = g(in[i]);
      ratio[i] = std::fabs(e) > 1e-30 ? static_cast<float>(1 + (out[i] - e) / std::fabs(e)) : 1;
    }
    compare(name, ratio, ones);
  };
  one("exp", exp_values, [](double v) { return std::exp(v); }, false);
  one("log", log_values, [](double v) { return std::log(v); }, true);
  one("erf", erf_values, [](double v) { return std::erf(v); }, false);
  one("tanh", tanh_values, [](double v) { return std::tanh(v); }, false);
  one("sigmoid", sigmoid_values, [](double v) { return 1 / (1 + std::exp(-v)); }, false);
  one("silu", silu, [](double v) { return v / (1 + std::exp(-v)); }, false);
  Floats y(n);
  Doubles e(n);
  gelu(n, x.data(), y.data());
  for (i64 i = 0; i < n; i++) e[i] = act(Activation::gelu, x[i]);
  compare("gelu", y, e);
  gelu_grad(n, x.data(), dy.data(), y.data());
  for (i64 i = 0; i < n; i++)
    e[i] = dy[i] * (0.5 * std::erfc(-x[i] * std::sqrt(0.5)) + x[i] * std::exp(-0.5 * x[i] * x[i]) / std::sqrt(2 * M_PI));
  compare("gelu grad", y, e);
  silu_grad(n, x.data(), dy.data(), y.data());
  for (i64 i = 0; i < n; i++) {
    const double s = 1 / (1 + std::exp(-static_cast<double>(x[i])));
    e[i] = dy[i] * s * (1 + x[i] * (1 - s));
  }
  compare("silu grad", y, e);
  // the edges
  const float inf = __builtin_inff();
  const float edges[] = {-inf, -200, -104, -88, 0, 88, 89, inf};
  float out[8];
  exp_values(8, edges, out);
  if (!(out[0] == 0 && out[1] == 0 && out[4] == 1 && std::isinf(out[6]) && std::isinf(out[7]))) worst["exp edges"] = 1;
  const float nan = __builtin_nanf("");
  exp_values(1, &nan, out);
  if (!std::isnan(out[0])) worst["exp nan"] = 1;
  const float logs[] = {0, -1, inf, 1};
  log_values(4, logs, out);
  if (!(std::isinf(out[0]) && out[0] < 0 && std::isnan(out[1]) && std::isinf(out[2]) && out[3] == 0)) worst["log edges"] = 1;
}

// --- Attention -----------------------------------------------------------------------------------

void attentions() {
  Attention s;
  s.batch = pick(1, 2);
  s.heads = pick(1, 3);
  s.queries = coin() ? pick(1, 20) : pick(1, 150);
  s.causal = coin();
  s.keys = s.causal ? s.queries + pick(0, 30) : pick(1, 150);
  if (pick(0, 3) == 0) s.queries = 1;
  static const i64 widths[] = {1, 4, 7, 16, 32, 40, 64};
  s.width = widths[pick(0, 6)];
  s.value_width = coin() ? 0 : widths[pick(0, 6)];
  const i64 vw = s.value_width ? s.value_width : s.width;
  s.scale = 0.3f;
  const bool merged = coin();  // [B, N, heads · width]
  if (merged) {
    s.q = {s.queries * s.heads * s.width, s.width, s.heads * s.width};
    s.k = {s.keys * s.heads * s.width, s.width, s.heads * s.width};
    s.v = {s.keys * s.heads * vw, vw, s.heads * vw};
    s.o = {s.queries * s.heads * vw, vw, s.heads * vw};
  }
  const i64 nq = s.batch * s.heads * s.queries * s.width, nk = s.batch * s.heads * s.keys * s.width;
  const i64 nv = s.batch * s.heads * s.keys * vw, no = s.batch * s.heads * s.queries * vw;
  const Floats q = random_floats(nq), k = random_floats(nk), v = random_floats(nv), d_o = random_floats(no);
  const Floats bias = random_floats(s.batch * s.keys);
  if (coin()) {
    s.bias = bias.data();  // by key
    s.bias_batch = s.keys;
    s.bias_key = 1;
  }
  const auto at = [&](i64 b, i64 h, i64 n, i64 rows, i64 width) {
    return merged ? (b * rows + n) * s.heads * width + h * width : ((b * s.heads + h) * rows + n) * width;
  };
  Doubles eo(no, 0.0), eq(nq, 0.0), ek(nk, 0.0), ev(nv, 0.0);
  for (i64 b = 0; b < s.batch; b++)
    for (i64 h = 0; h < s.heads; h++)
      for (i64 i = 0; i < s.queries; i++) {
        const i64 seen = s.causal ? std::min(s.keys, i + 1 + s.keys - s.queries) : s.keys;
        Doubles p(seen), dp(seen, 0.0);
        double z = 0, delta = 0;
        for (i64 j = 0; j < seen; j++) {
          double score = 0;
          for (i64 d = 0; d < s.width; d++) score += static_cast<double>(q[at(b, h, i, s.queries, s.width) + d]) * k[at(b, h, j, s.keys, s.width) + d];
          p[j] = std::exp(s.scale * score + (s.bias ? bias[b * s.keys + j] : 0));
          z += p[j];
        }
        for (i64 j = 0; j < seen; j++) {
          p[j] /= z;
          for (i64 d = 0; d < vw; d++) {
            const double g = d_o[at(b, h, i, s.queries, vw) + d];
            eo[at(b, h, i, s.queries, vw) + d] += p[j] * v[at(b, h, j, s.keys, vw) + d];
            ev[at(b, h, j, s.keys, vw) + d] += p[j] * g;
            dp[j] += g * v[at(b, h, j, s.keys, vw) + d];
          }
          delta += p[j] * dp[j];
        }
        for (i64 j = 0; j < seen; j++) {
          const double ds = p[j] * (dp[j] - delta) * s.scale;
          for (i64 d = 0; d < s.width; d++) {
            eq[at(b, h, i, s.queries, s.width) + d] += ds * k[at(b, h, j, s.keys, s.width) + d];
            ek[at(b, h, j, s.keys, s.width) + d] += ds * q[at(b, h, i, s.queries, s.width) + d];
          }
        }
      }
  shape_text = "q" + std::to_string(s.queries) + " k" + std::to_string(s.keys) + " d" + std::to_string(s.width) + "/" +
               std::to_string(vw) + (s.causal ? " causal" : "") + (merged ? " merged" : "") + (s.bias ? " bias" : "");
  Floats o(no), dq(nq), dk(nk), dv(nv), logsum(s.batch * s.heads * s.queries);
  const bool keep = coin();
  attention(s, q.data(), k.data(), v.data(), o.data(), keep ? logsum.data() : nullptr);
  compare("attention", o, eo);
  attention_grad(s, q.data(), k.data(), v.data(), d_o.data(), keep ? logsum.data() : nullptr, dq.data(), dk.data(), dv.data());
  compare("attention dq", dq, eq);
  compare("attention dk", dk, ek);
  compare("attention dv", dv, ev);
}

// --- Optimizer -----------------------------------------------------------------------------------

void optimizer() {
  const i64 count = pick(1, 5);
  std::vector<Floats> g, p, m, v, e;
  std::vector<AdamWTensor> tensors;
  std::vector<i64> sizes;
  std::vector<const float*> grads;
  double squares = 0;
  AdamW o{0.01f, 1e-7f, 0.99f, 0.9f, 0.99f, 0.5f, 0.95f};
  std::vector<Doubles> ep, ee, em;
  for (i64 t = 0; t < count; t++) {
    const i64 n = pick(0, 40000);
    g.push_back(random_floats(n));
    p.push_back(random_floats(n));
    m.push_back(random_floats(n));
    v.push_back(random_floats(n));
    for (auto& x : v.back()) x = std::fabs(x);
    e.push_back(random_floats(n));
    ep.emplace_back();
    ee.emplace_back();
    em.emplace_back();
    for (i64 i = 0; i < n; i++) {
      squares += static_cast<double>(g[t][i]) * g[t][i];
      const double gr = g[t][i] * 0.5, nm = 0.9 * m[t][i] + 0.1 * gr, nv = 0.99 * v[t][i] + 0.01 * gr * gr;
      const double np = p[t][i] * (t % 2 == 0 ? 0.99 : 1) - 0.01 * nm / (std::sqrt(nv) + 1e-7);
      em[t].push_back(nm);
      ep[t].push_back(np);
      ee[t].push_back(0.95 * e[t][i] + 0.05 * np);
    }
  }
  for (i64 t = 0; t < count; t++) {
    sizes.push_back(static_cast<i64>(g[t].size()));
    grads.push_back(g[t].data());
    tensors.push_back({sizes[t], g[t].data(), p[t].data(), m[t].data(), v[t].data(), e[t].data(), p[t].data(), m[t].data(), v[t].data(), e[t].data(), t % 2 == 0});
  }
  const float got = static_cast<float>(sum_of_squares(count, sizes.data(), grads.data()));
  compare("sum of squares", &got, {squares});
  adamw(o, count, tensors.data());
  for (i64 t = 0; t < count; t++) {
    compare("adamw p", p[t], ep[t]);
    compare("adamw m", m[t], em[t]);
    compare("adamw ema", e[t], ee[t]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned seed = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 1;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 30;
  const std::string only = argc > 3 ? argv[3] : "";
  const std::vector<std::pair<std::string, std::function<void()>>> all = {
      {"conv", convolutions}, {"gemm", products}, {"group", group_norms}, {"layer", layer_norms}, {"rows", rows_of},
      {"values", values}, {"attention", attentions}, {"optimizer", optimizer}};
  for (const auto& [name, run] : all) {
    if (!only.empty() && only != name) continue;
    rng.seed(seed);
    for (int i = 0; i < rounds; i++) {
      set_threads(1 + i % 3);
      run();
    }
  }
  bool bad = false;
  for (const auto& [name, error] : worst) {
    const bool wrong = !(error < (name.rfind("conv 3x3x3", 0) == 0 ? 1e-4 : 2e-5));
    std::printf("%-28s %.1e  %s%s\n", name.c_str(), error, where[name].c_str(), wrong ? "  WRONG" : "");
    bad = bad || wrong;
  }
  return bad ? 1 : 0;
}
