// CUDA C++ on a processor, for tests: every thread of a block is a thread, barriers are barriers, and blocks follow
// each other. Enough of the language for the kernels of this folder's parent; slow, so for small sizes.
#pragma once

#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

struct Place {
  unsigned x, y;
};
inline thread_local Place threadIdx, blockIdx;
inline Place blockDim, gridDim;
inline std::unique_ptr<std::barrier<>> wholeBlock;
inline std::vector<std::unique_ptr<std::barrier<>>> warpBarriers;
inline float exchanged[32][32];

#define __global__
#define __launch_bounds__(threads)
#define __shared__ static
#define FORCE static inline
#define __syncthreads() wholeBlock->arrive_and_wait()
#define __threadfence() std::atomic_thread_fence(std::memory_order_seq_cst)

typedef unsigned short bf16;
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <class T>
T __ldg(const T* p) {
  return *p;
}
inline float __ldcg(const float* p) { return *p; }
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline bf16 narrowed(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline float __shfl_xor_sync(unsigned, float x, int other) {
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  exchanged[warp][lane] = x;
  warpBarriers[warp]->arrive_and_wait();
  const float got = exchanged[warp][lane ^ static_cast<unsigned>(other)];
  warpBarriers[warp]->arrive_and_wait();
  return got;
}
inline unsigned atomicInc(unsigned* at, unsigned most) {
  static std::atomic_flag busy = ATOMIC_FLAG_INIT;
  while (busy.test_and_set()) {
  }
  const unsigned before = *at;
  *at = before >= most ? 0 : before + 1;
  busy.clear();
  return before;
}

// Start a kernel and wait for its end.
inline void start(unsigned gridX, unsigned gridY, unsigned threads, const std::function<void()>& kernel) {
  blockDim = {threads, 1};
  gridDim = {gridX, gridY};
  for (unsigned y = 0; y < gridY; y++) {
    for (unsigned x = 0; x < gridX; x++) {
      wholeBlock = std::make_unique<std::barrier<>>(threads);
      warpBarriers.clear();
      for (unsigned w = 0; w < (threads + 31) / 32; w++) warpBarriers.push_back(std::make_unique<std::barrier<>>(32));
      std::vector<std::thread> all;
      for (unsigned t = 0; t < threads; t++) {
        all.emplace_back([&, t] {
          threadIdx = {t, 0};
          blockIdx = {x, y};
          kernel();
        });
      }
      for (auto& thread : all) thread.join();
    }
  }
}
