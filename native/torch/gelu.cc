// The gradient of GELU with the sums of its columns, which are the gradient of the bias before it: in a transformer's
// MLP the largest tensor of a block, which a sum of its own would read once more. Sums run in a fixed order.
#include "kernel_cache.h"

namespace tessera {
namespace {

using at::Tensor;

const char* kSource = R"(// fast
struct alignas(16) Pack { bf16 v[8]; };
// x, d, y [rows, C]: a thread takes eight columns of every gridDim.x-th row. part [gridDim.x, C].
extern "C" __global__ void __launch_bounds__(256) geluGradSums(const bf16* __restrict__ x, const bf16* __restrict__ d, bf16* y,
                                                               float* part, int rows) {
  const int column = (blockIdx.y * 256 + threadIdx.x) * 8;
  if (column >= C) return;
  float sums[8];
  #pragma unroll
  for (int e = 0; e < 8; e++) sums[e] = 0.0f;
  for (long r = blockIdx.x; r < rows; r += gridDim.x) {
    const Pack a = *(const Pack*)(x + r * C + column), b = *(const Pack*)(d + r * C + column);
    Pack made;
    #pragma unroll
    for (int e = 0; e < 8; e++) {
      const float v = get(a.v[e]);
      const float slope = 0.5f * (1.0f + erff(v * 0.70710678118654752f)) + v * 0.39894228040143268f * expf(-0.5f * v * v);
      const float g = get(b.v[e]) * slope;
      sums[e] += g;
      put(made.v[e], g);
    }
    *(Pack*)(y + r * C + column) = made;
  }
  #pragma unroll
  for (int e = 0; e < 8; e++) part[(long)blockIdx.x * C + column + e] = sums[e];
}

extern "C" __global__ void __launch_bounds__(256) partSums(const float* __restrict__ part, float* out, int parts) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32, k = blockIdx.x * 32 + lane;
  float s = 0.0f;
  if (k < C) {
    for (int b = row; b < parts; b += 8) s += part[(long)b * C + k];
  }
  sums[row][lane] = s;
  __syncthreads();
  if (row == 0 && k < C) {
    s = 0.0f;
    for (int r = 0; r < 8; r++) s += sums[r][lane];
    out[k] = s;
  }
}
)";

// Inputs: x and the gradient dy [rows, C]. Outputs: the gradient of x, and the sums of its columns [C].
void geluGradSums(const Instruction& i, Slots& s, Machine& m) {
  const Tensor x = arg(i, s, 0).contiguous(), d = arg(i, s, 1).contiguous();
  const int64_t c = x.size(-1), rows = c == 0 ? 0 : x.numel() / c;
  auto narrow = [](const Tensor& t) {
    return t.scalar_type() == at::kBFloat16 && reinterpret_cast<uintptr_t>(t.data_ptr()) % 16 == 0;
  };
  if (!m.cuda() || x.numel() == 0 || c % 8 != 0 || c > int64_t{1} << 20 || !narrow(x) || !narrow(d) ||
      i.specs[0].type != at::kBFloat16) {
    Tensor y = at::gelu_backward(wide(d), wide(x));
    put(i, s, 0, y);
    put(i, s, 1, y.reshape({-1, c}).sum(0));
    return;
  }
  const int64_t strips = (c / 8 + 255) / 256, parts = std::max<int64_t>(1, std::min<int64_t>(rows, 132 * 8 / strips));
  Tensor y = at::empty(i.specs[0].shape, x.options()), sums = at::empty({c}, x.options().dtype(at::kFloat));
  Tensor part = at::empty({parts, c}, sums.options());
  const std::string defines = kPrelude + std::string("#define C ") + std::to_string(c) + "\n";
  void *px = x.data_ptr(), *pd = d.data_ptr(), *py = y.data_ptr(), *pp = part.data_ptr(), *ps = sums.data_ptr();
  int n = static_cast<int>(rows), count = static_cast<int>(parts);
  launch(compiled(kSource, "geluGradSums", defines, x.device().index()), parts, strips, 256, arguments(px, pd, py, pp, n));
  launch(compiled(kSource, "partSums", defines, x.device().index()), (c + 31) / 32, 1, 256, arguments(pp, ps, count));
  s[i.out[0]] = y;
  s[i.out[1]] = sums;
}

}  // namespace

void addGelu(Registry& r) { r["GeluGradSums"] = geluGradSums; }

}  // namespace tessera
