/**
 * Times the convolutions of a tokenizer's train step: forward, input gradient and filter gradient, the
 * fastest of a few runs each, in milliseconds and in GFLOP/s of the direct algorithm.
 *   conv [only this shape's number, -1 for all [threads]]
 */
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <vector>

#include "../../kernels.h"

using namespace tessera;

namespace {

struct Case {
  i64 t, h, w, ci, co, k, st, s;
  int forward, input, filter;  // how often in a step
};

// Two clips of 17×64×64 through MAGVIT-v2's causal CNN; see bench/experiments/tokenizer-3d.yaml.
const Case cases[] = {
    {17, 64, 64, 3, 32, 3, 1, 1, 1, 0, 1},     {17, 64, 64, 32, 32, 3, 1, 1, 7, 7, 7},
    {17, 64, 64, 64, 32, 3, 1, 1, 1, 1, 1},    {17, 64, 64, 64, 32, 1, 1, 1, 1, 1, 1},
    {17, 64, 64, 32, 3, 3, 1, 1, 1, 1, 1},     {17, 64, 64, 32, 32, 3, 1, 2, 1, 1, 1},
    {17, 32, 32, 32, 64, 3, 1, 1, 1, 1, 1},    {17, 32, 32, 32, 64, 1, 1, 1, 1, 1, 1},
    {17, 32, 32, 64, 64, 3, 1, 1, 7, 7, 7},    {17, 32, 32, 64, 256, 3, 1, 1, 1, 1, 1},
    {17, 32, 32, 64, 64, 3, 2, 2, 1, 1, 1},    {9, 16, 16, 64, 64, 3, 1, 1, 7, 7, 7},
    {9, 16, 16, 128, 64, 3, 1, 1, 1, 1, 1},    {9, 16, 16, 64, 512, 3, 1, 1, 1, 1, 1},
    {9, 16, 16, 64, 64, 3, 2, 2, 1, 1, 1},     {5, 8, 8, 64, 128, 3, 1, 1, 1, 1, 1},
    {5, 8, 8, 128, 128, 3, 1, 1, 15, 15, 15},  {5, 8, 8, 128, 1024, 3, 1, 1, 1, 1, 1},
};

/** Seconds; those of the processor where there is one thread, which other programs disturb less. */
double now() {
  timespec t;
  clock_gettime(threads() == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double fastest(const std::function<void()>& run) {
  double best = 1e9, total = 0;
  for (int i = 0; i < 30 && (i < 3 || total < 0.4); i++) {
    const double start = now();
    run();
    const double s = now() - start;
    best = s < best ? s : best;
    total += s;
  }
  return best * 1e3;
}

}  // namespace

int main(int argc, char** argv) {
  const int only = argc > 1 ? std::atoi(argv[1]) : -1;
  if (argc > 2) set_threads(std::atoi(argv[2]));
  double sums[3] = {0, 0, 0};
  int number = 0;
  for (const Case& a : cases) {
    if (only >= 0 && number++ != only) continue;
    Conv c;
    c.batch = 2;
    const i64 in[3] = {a.t, a.h, a.w}, stride[3] = {a.st, a.s, a.s};
    for (int i = 0; i < 3; i++) {
      c.in[i] = in[i];
      c.kernel[i] = a.k;
      c.stride[i] = stride[i];
      const i64 out = (in[i] + stride[i] - 1) / stride[i];
      const i64 total = (out - 1) * stride[i] + a.k - in[i];
      c.out[i] = out;
      c.pad[i] = a.k == 1 ? 0 : i == 0 ? a.k - 1 : (total > 0 ? total / 2 : 0);
      if (i == 0 && a.st == 2) c.out[i] = (in[i] + 2 - a.k) / 2 + 1;
    }
    c.ci = a.ci;
    c.co = a.co;
    const i64 nx = c.batch * c.in[0] * c.in[1] * c.in[2] * c.ci, ny = c.batch * c.out[0] * c.out[1] * c.out[2] * c.co;
    const i64 nf = a.k * a.k * a.k * c.ci * c.co;
    std::vector<float> x(nx, 0.5f), dx(nx), y(ny), dy(ny, 0.25f), f(nf, 0.1f), df(nf);
    const double flops = 2.0 * static_cast<double>(ny) * static_cast<double>(a.k * a.k * a.k * a.ci);
    const double times[3] = {
        fastest([&] { conv_forward(c, x.data(), f.data(), y.data()); }),
        a.input ? fastest([&] { conv_input_grad(c, dy.data(), f.data(), dx.data()); }) : 0,
        fastest([&] { conv_filter_grad(c, x.data(), dy.data(), df.data()); }),
    };
    const int counts[3] = {a.forward, a.input, a.filter};
    std::printf("%2ldx%2ldx%2ld %4ld->%4ld k%ld s%ld%ld", (long)a.t, (long)a.h, (long)a.w, (long)a.ci, (long)a.co, (long)a.k, (long)a.st, (long)a.s);
    for (int i = 0; i < 3; i++) {
      sums[i] += counts[i] * times[i];
      std::printf("  %s %7.2f ms %5.0f GF/s", i == 0 ? "y" : i == 1 ? "dx" : "df", times[i], times[i] > 0 ? flops / times[i] * 1e-6 : 0);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
  std::printf("a step: forward %.0f + input gradients %.0f + filter gradients %.0f = %.0f ms\n", sums[0], sums[1], sums[2], sums[0] + sums[1] + sums[2]);
}
