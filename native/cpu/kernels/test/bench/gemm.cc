/**
 * Times matrix products of a transformer's train step and of decoding: the fastest of a few runs each.
 *   gemm [threads]
 */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "../../kernels.h"

using namespace tessera;

namespace {

double now() {
  timespec t;
  clock_gettime(threads() == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) set_threads(std::atoi(argv[1]));
  struct Case {
    i64 m, n, k;
    bool ta, tb, bias;
  };
  const Case cases[] = {
      {2568, 768, 256, false, false, true},   {2568, 1024, 256, false, false, true}, {2568, 256, 1024, false, false, true},
      {2568, 256, 768, false, true, false},   {2568, 1024, 256, false, true, false}, {2568, 256, 1024, false, true, false},
      {256, 768, 2568, true, false, false},   {256, 1024, 2568, true, false, false}, {1024, 256, 2568, true, false, false},
      {2560, 1024, 256, false, true, true},   {8, 768, 256, false, false, true},     {8, 1024, 256, false, false, true},
      {8, 256, 1024, false, false, true},     {8, 1024, 256, false, true, true},     {1, 4096, 4096, false, false, false},
  };
  for (const Case& c : cases) {
    Gemm g;
    g.m = c.m;
    g.n = c.n;
    g.k = c.k;
    g.trans_a = c.ta;
    g.trans_b = c.tb;
    std::vector<float> a(c.m * c.k, 0.5f), b(c.k * c.n, 0.25f), y(c.m * c.n), bias(c.n);
    if (c.bias) g.bias = bias.data();
    std::vector<double> times;
    double total = 0;
    while (times.size() < 5 || (total < 0.3 && times.size() < 2000)) {
      const double start = now();
      gemm(g, a.data(), b.data(), y.data());
      times.push_back(now() - start);
      total += times.back();
    }
    std::sort(times.begin(), times.end());
    const double work = 2e-9 * static_cast<double>(c.m * c.n) * static_cast<double>(c.k);
    std::printf("%4ldx%4ldx%4ld %c%c  %8.3f ms  %5.0f GF/s (median %5.0f)\n", (long)c.m, (long)c.n, (long)c.k, c.ta ? 't' : 'n',
                c.tb ? 't' : 'n', times[0] * 1e3, work / times[0], work / times[times.size() / 2]);
  }
}
