// Group norm (with SiLU) and layer norm on CUDA, forward and backward, channels last: each reads its
// tensors as often as the arithmetic needs and no more. Statistics and sums are float32. Sums over rows
// run in a fixed order, so results repeat to the bit.
#include "kernel_cache.h"

namespace tessera {
namespace {

using at::Tensor;

const char* kSource = R"(
template <typename T> struct alignas(sizeof(T) * VEC) Pack { T v[VEC]; };
template <typename T> FORCE Pack<T> load(const T* p) { return *(const Pack<T>*)p; }
template <typename T> FORCE void store(T* p, const Pack<T>& x) { *(Pack<T>*)p = x; }
FORCE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// ---- group norm: x [B, P, C]; lanes of C / VEC threads take a row each, ROWS rows at a time ----
#define LANES (C / VEC)
#define ROWS (THREADS / LANES)

// Where clip frame b of a tensor with other frames around it begins: see framesOf.
FORCE long start(long b, int frames, int whole, int first) {
  return frames == 0 ? b * (long)P * C : ((b / frames) * (long)whole + first + b % frames) * (long)P * C;
}

// A part's rows.
struct Range {
  int begin, end;
};
FORCE Range rangeOf(int parts) {
  const int step = (P + parts - 1) / parts, begin = blockIdx.x * step;
  return {begin, min(P, begin + step)};
}

// Every thread's two sums of its VEC channels, where all threads of the block can read them when it returns.
FORCE void spread(float (&sums)[2][THREADS / LANES][C], const float* a, const float* b) {
  const int lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
  #pragma unroll
  for (int v = 0; v < VEC; v++) {
    sums[0][row][lane * VEC + v] = a[v];
    sums[1][row][lane * VEC + v] = b[v];
  }
  __syncthreads();
}

// Both sums over the block's rows and over `count` channels from `first` on.
FORCE void collect(float (&sums)[2][THREADS / LANES][C], int first, int count, float* out) {
  float a = 0.0f, b = 0.0f;
  for (int r = 0; r < ROWS; r++) {
    for (int k = first; k < first + count; k++) {
      a += sums[0][r][k];
      b += sums[1][r][k];
    }
  }
  out[0] = a;
  out[1] = b;
}

// The gradient before the activation: h is the normalised value, a and c its scale and shift.
FORCE float beforeSilu(float d, float h, float a, float c) {
  if (!SILU) return d;
  const float z = h * a + c, t = sigmoid(z);
  return d * t * (1.0f + z * (1.0f - t));
}

// Sums of x - pivot and its square for each group and part of the rows.
extern "C" __global__ void gnStats(const X* __restrict__ x, float* part, int parts) {
  __shared__ float sums[2][THREADS / LANES][C];
  const int lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
  const long b = blockIdx.y;
  const X* base = x + b * (long)P * C;
  float pivot[VEC], s[VEC], q[VEC];
  #pragma unroll
  for (int v = 0; v < VEC; v++) {
    pivot[v] = get(base[(lane * VEC + v) / (C / G) * (C / G)]);
    s[v] = q[v] = 0.0f;
  }
  const Range own = rangeOf(parts);
  for (int p = own.begin + row; p < own.end; p += ROWS) {
    const Pack<X> a = load(base + (long)p * C + lane * VEC);
    #pragma unroll
    for (int v = 0; v < VEC; v++) {
      const float d = get(a.v[v]) - pivot[v];
      s[v] += d;
      q[v] += d * d;
    }
  }
  spread(sums, s, q);
  for (int g = threadIdx.x; g < G; g += THREADS) {
    collect(sums, g * (C / G), C / G, part + ((b * parts + blockIdx.x) * G + g) * 2);
  }
}

// Mean and reciprocal deviation of each (b, group): stats [B, G, 2].
extern "C" __global__ void gnFinish(const X* __restrict__ x, const float* __restrict__ part, float* stats, int parts, float epsilon) {
  const long b = blockIdx.x;
  for (int g = threadIdx.x; g < G; g += blockDim.x) {
    float s = 0.0f, q = 0.0f;
    for (int k = 0; k < parts; k++) {
      const float* from = part + ((b * parts + k) * G + g) * 2;
      s += from[0];
      q += from[1];
    }
    const float n = (float)P * (C / G), d = s / n;
    const float variance = fmaxf(q / n - d * d, 0.0f);
    stats[(b * G + g) * 2] = get(x[b * (long)P * C + g * (C / G)]) + d;
    stats[(b * G + g) * 2 + 1] = rsqrtf(variance + epsilon);
  }
}

extern "C" __global__ void gnApply(const X* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ shift,
                                   const float* __restrict__ stats, Y* y, int parts, int frames, int whole, int first) {
  const int lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
  const long b = blockIdx.y;
  const X* base = x + b * (long)P * C;
  Y* out = y + start(b, frames, whole, first);
  float a[VEC], c[VEC];
  #pragma unroll
  for (int v = 0; v < VEC; v++) {
    const int k = lane * VEC + v, g = k / (C / G);
    const float mean = stats[(b * G + g) * 2], rate = stats[(b * G + g) * 2 + 1];
    a[v] = rate * scale[k];
    c[v] = shift[k] - mean * a[v];
  }
  const Range own = rangeOf(parts);
  for (int p = own.begin + row; p < own.end; p += ROWS) {
    const Pack<X> in = load(base + (long)p * C + lane * VEC);
    Pack<Y> made;
    #pragma unroll
    for (int v = 0; v < VEC; v++) {
      float z = get(in.v[v]) * a[v] + c[v];
      if (SILU) z = z * sigmoid(z);
      put(made.v[v], z);
    }
    store(out + (long)p * C + lane * VEC, made);
  }
}

// Σ dz and Σ dz·x̂ for each channel and part of the rows, dz the gradient before the activation.
extern "C" __global__ void gnGradSums(const X* __restrict__ x, const D* __restrict__ dy, const float* __restrict__ scale,
                                      const float* __restrict__ shift, const float* __restrict__ stats, float* part, int parts,
                                      int frames, int whole, int first) {
  __shared__ float sums[2][THREADS / LANES][C];
  const int lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
  const long b = blockIdx.y;
  const X* base = x + b * (long)P * C;
  const D* grads = dy + start(b, frames, whole, first);
  float mean[VEC], rate[VEC], a[VEC], c[VEC], s[VEC], q[VEC];
  #pragma unroll
  for (int v = 0; v < VEC; v++) {
    const int k = lane * VEC + v, g = k / (C / G);
    mean[v] = stats[(b * G + g) * 2];
    rate[v] = stats[(b * G + g) * 2 + 1];
    a[v] = scale[k];
    c[v] = shift[k];
    s[v] = q[v] = 0.0f;
  }
  const Range own = rangeOf(parts);
  for (int p = own.begin + row; p < own.end; p += ROWS) {
    const Pack<X> in = load(base + (long)p * C + lane * VEC);
    const Pack<D> up = load(grads + (long)p * C + lane * VEC);
    #pragma unroll
    for (int v = 0; v < VEC; v++) {
      const float h = (get(in.v[v]) - mean[v]) * rate[v], d = beforeSilu(get(up.v[v]), h, a[v], c[v]);
      s[v] += d;
      q[v] += d * h;
    }
  }
  spread(sums, s, q);
  for (int k = threadIdx.x; k < C; k += THREADS) collect(sums, k, 1, part + ((b * parts + blockIdx.x) * C + k) * 2);
}

// Parts added up: channel [B, C, 2], and group [B, G, 2] weighted by the scale and divided by the group's size.
extern "C" __global__ void gnGradFinish(const float* __restrict__ part, const float* __restrict__ scale, float* channel, float* group,
                                        int parts) {
  __shared__ float weighted[2][C];
  const long b = blockIdx.x;
  for (int k = threadIdx.x; k < C; k += blockDim.x) {
    float u = 0.0f, w = 0.0f;
    for (int n = 0; n < parts; n++) {
      u += part[((b * parts + n) * C + k) * 2];
      w += part[((b * parts + n) * C + k) * 2 + 1];
    }
    channel[(b * C + k) * 2] = u;
    channel[(b * C + k) * 2 + 1] = w;
    weighted[0][k] = u * scale[k];
    weighted[1][k] = w * scale[k];
  }
  __syncthreads();
  for (int g = threadIdx.x; g < G; g += blockDim.x) {
    float u = 0.0f, w = 0.0f;
    for (int k = 0; k < C / G; k++) {
      u += weighted[0][g * (C / G) + k];
      w += weighted[1][g * (C / G) + k];
    }
    const float n = (float)P * (C / G);
    group[(b * G + g) * 2] = u / n;
    group[(b * G + g) * 2 + 1] = w / n;
  }
}

extern "C" __global__ void gnGradParameters(const float* __restrict__ channel, float* dscale, float* dshift, int batch) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= C) return;
  float u = 0.0f, w = 0.0f;
  for (int b = 0; b < batch; b++) {
    u += channel[((long)b * C + k) * 2];
    w += channel[((long)b * C + k) * 2 + 1];
  }
  dshift[k] = u;
  dscale[k] = w;
}

extern "C" __global__ void gnGradApply(const X* __restrict__ x, const D* __restrict__ dy, const float* __restrict__ scale,
                                       const float* __restrict__ shift, const float* __restrict__ stats,
                                       const float* __restrict__ group, Y* dx, int parts, int frames, int whole, int first) {
  const int lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
  const long b = blockIdx.y;
  const X* base = x + b * (long)P * C;
  const D* grads = dy + start(b, frames, whole, first);
  Y* out = dx + b * (long)P * C;
  float mean[VEC], rate[VEC], a[VEC], c[VEC], u[VEC], w[VEC];
  #pragma unroll
  for (int v = 0; v < VEC; v++) {
    const int k = lane * VEC + v, g = k / (C / G);
    mean[v] = stats[(b * G + g) * 2];
    rate[v] = stats[(b * G + g) * 2 + 1];
    u[v] = group[(b * G + g) * 2];
    w[v] = group[(b * G + g) * 2 + 1];
    a[v] = scale[k];
    c[v] = shift[k];
  }
  const Range own = rangeOf(parts);
  for (int p = own.begin + row; p < own.end; p += ROWS) {
    const Pack<X> in = load(base + (long)p * C + lane * VEC);
    const Pack<D> up = load(grads + (long)p * C + lane * VEC);
    Pack<Y> made;
    #pragma unroll
    for (int v = 0; v < VEC; v++) {
      const float h = (get(in.v[v]) - mean[v]) * rate[v], d = beforeSilu(get(up.v[v]), h, a[v], c[v]);
      put(made.v[v], rate[v] * (d * a[v] - u[v] - h * w[v]));
    }
    store(out + (long)p * C + lane * VEC, made);
  }
}
)";

const char* kLayerSource = R"(
template <typename T> struct alignas(sizeof(T) * VEC) Pack { T v[VEC]; };
template <typename T> FORCE Pack<T> load(const T* p) { return *(const Pack<T>*)p; }
template <typename T> FORCE void store(T* p, const Pack<T>& x) { *(Pack<T>*)p = x; }

// x [R, C]: a block takes a row; its thread VEC neighbouring values. Where something is added, the norm is the sum's,
// which is kept.
extern "C" __global__ void __launch_bounds__(THREADS) lnForward(const X* __restrict__ x, const float* __restrict__ scale,
                                                                const float* __restrict__ shift, Y* y, float* stats, float epsilon,
                                                                const D* __restrict__ added, float* sum) {
  __shared__ float room[64];
  const long r = blockIdx.x;
  const int k = threadIdx.x * VEC;
  const bool in = k < C;
  float v[VEC], s = 0.0f, none = 0.0f;
  if (in) {
    const Pack<X> a = load(x + r * C + k);
    #pragma unroll
    for (int e = 0; e < VEC; e++) v[e] = get(a.v[e]);
    if (added) {
      const Pack<D> b = load(added + r * C + k);
      Pack<float> both;
      #pragma unroll
      for (int e = 0; e < VEC; e++) both.v[e] = v[e] += get(b.v[e]);
      store(sum + r * C + k, both);
    }
    #pragma unroll
    for (int e = 0; e < VEC; e++) s += v[e];
  }
  total<THREADS>(s, none, room);
  const float mean = s / C;
  float q = 0.0f;
  if (in) {
    #pragma unroll
    for (int e = 0; e < VEC; e++) { v[e] -= mean; q += v[e] * v[e]; }
  }
  none = 0.0f;
  total<THREADS>(q, none, room);
  const float rate = rsqrtf(q / C + epsilon);
  if (in) {
    Pack<Y> made;
    #pragma unroll
    for (int e = 0; e < VEC; e++) put(made.v[e], v[e] * rate * scale[k + e] + shift[k + e]);
    store(y + r * C + k, made);
  }
  if (threadIdx.x == 0) { stats[r * 2] = mean; stats[r * 2 + 1] = rate; }
}

// Blocks take rows in turns and keep the column sums of theirs: part [blocks, SUMS, C], the third that of dx.
extern "C" __global__ void __launch_bounds__(THREADS) lnBackward(const X* __restrict__ x, const D* __restrict__ dy,
                                                                 const float* __restrict__ scale, const float* __restrict__ stats,
                                                                 Y* dx, float* part, int rows, const float* __restrict__ residual,
                                                                 bf16* narrowed) {
  __shared__ float room[64];
  const int k = threadIdx.x * VEC;
  const bool in = k < C;
  float u[VEC], w[VEC], t[VEC], g[VEC];
  #pragma unroll
  for (int e = 0; e < VEC; e++) { u[e] = w[e] = t[e] = 0.0f; g[e] = in ? scale[k + e] : 0.0f; }
  for (long r = blockIdx.x; r < rows; r += gridDim.x) {
    const float mean = stats[r * 2], rate = stats[r * 2 + 1];
    float h[VEC], d[VEC], a = 0.0f, b = 0.0f;
    if (in) {
      const Pack<X> px = load(x + r * C + k);
      const Pack<D> pd = load(dy + r * C + k);
      #pragma unroll
      for (int e = 0; e < VEC; e++) {
        h[e] = (get(px.v[e]) - mean) * rate;
        d[e] = get(pd.v[e]);
        u[e] += d[e];
        w[e] += d[e] * h[e];
        d[e] *= g[e];
        a += d[e];
        b += d[e] * h[e];
      }
    }
    total<THREADS>(a, b, room);
    a /= C;
    b /= C;
    if (in) {
      Pack<Y> made;
      Pack<float> more;
      if (residual) more = load(residual + r * C + k);
      #pragma unroll
      for (int e = 0; e < VEC; e++) {
        d[e] = rate * (d[e] - a - h[e] * b);
        if (residual) d[e] += more.v[e];
        if (SUMS > 2) t[e] += d[e];
        put(made.v[e], d[e]);
      }
      store(dx + r * C + k, made);
      if (narrowed) {
        Pack<bf16> copy;
        #pragma unroll
        for (int e = 0; e < VEC; e++) put(copy.v[e], d[e]);
        store(narrowed + r * C + k, copy);
      }
    }
  }
  if (in) {
    #pragma unroll
    for (int e = 0; e < VEC; e++) {
      part[(long)blockIdx.x * SUMS * C + k + e] = u[e];
      part[((long)blockIdx.x * SUMS + 1) * C + k + e] = w[e];
      if (SUMS > 2) part[((long)blockIdx.x * SUMS + 2) * C + k + e] = t[e];
    }
  }
}

// The parts' sums: a block takes 32 columns of one of them.
extern "C" __global__ void lnParameters(const float* __restrict__ part, float* dscale, float* dshift, float* dsum, int blocks) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32, k = blockIdx.x * 32 + lane, which = blockIdx.y;
  float s = 0.0f;
  if (k < C) {
    for (int b = row; b < blocks; b += 8) s += part[((long)b * SUMS + which) * C + k];
  }
  sums[row][lane] = s;
  __syncthreads();
  if (row == 0 && k < C) {
    s = 0.0f;
    for (int r = 0; r < 8; r++) s += sums[r][lane];
    (which == 0 ? dshift : which == 1 ? dscale : dsum)[k] = s;
  }
}
)";

// Whether the kernels above take these sizes.
bool groupFits(int64_t c, int64_t groups, int64_t vec) {
  return c % vec == 0 && c / vec <= 256 && c <= 1024 && 256 % (c / vec) == 0 && c % groups == 0;
}

struct GroupKernels {
  std::string defines;
  int64_t b, p, c, groups;
  int threads = 256, parts = 1;
};

GroupKernels groupKernels(const Instruction& i, const Tensor& x, int64_t groups, bool silu, const Tensor& dy, at::ScalarType y) {
  GroupKernels k;
  k.b = x.size(0);
  k.c = x.size(-1);
  k.p = x.numel() / (k.b * k.c);
  k.groups = groups;
  const int64_t vec = x.scalar_type() == at::kBFloat16 && k.c % 8 == 0 ? 8 : 4;
  const int64_t rows = 256 / (k.c / vec);
  // About four blocks for each of 132 multiprocessors, each with some rows to do.
  k.parts = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>((132 * 8 + k.b - 1) / k.b, (k.p + rows * 4 - 1) / (rows * 4))));
  k.defines = kPrelude + std::string("#define VEC ") + std::to_string(vec) + "\n#define C " + std::to_string(k.c) + "\n#define G " +
              std::to_string(groups) + "\n#define P " + std::to_string(k.p) + "\n#define THREADS 256\n#define SILU " +
              (silu ? "1" : "0") + "\ntypedef " + (x.scalar_type() == at::kBFloat16 ? "unsigned short" : "float") + " X;\ntypedef " +
              (y == at::kBFloat16 ? "unsigned short" : "float") + " Y;\ntypedef " +
              (dy.defined() && dy.scalar_type() == at::kBFloat16 ? "unsigned short" : "float") + " D;\n";
  return k;
}

// ints: groups, SiLU, then where the frames lie in a larger output or gradient: frames of a clip, frames
// there, the first one (0, 0, 0 for the same place).
struct Frames {
  int frames = 0, whole = 0, first = 0;
};
Frames framesOf(const Instruction& i) {
  if (i.ints.size() < 5) return {};
  return {static_cast<int>(i.ints[2]), static_cast<int>(i.ints[3]), static_cast<int>(i.ints[4])};
}

}  // namespace

bool cudaGroupNormFits(const Tensor& x, int64_t groups) {
  const int64_t c = x.size(-1);
  const int64_t vec = x.scalar_type() == at::kBFloat16 && c % 8 == 0 ? 8 : 4;
  return x.is_cuda() && x.numel() > 0 && x.size(0) <= 65535 && groupFits(c, groups, vec);
}

// Returns mean and rate of each (b, group): [B, G, 2].
Tensor cudaGroupNorm(const Instruction& i, const Tensor& given, const Tensor& scale, const Tensor& shift, Tensor& y) {
  const Tensor x = given.contiguous();
  GroupKernels k = groupKernels(i, x, i.ints[0], i.ints[1] != 0, {}, y.scalar_type());
  const Frames f = framesOf(i);
  const int device = x.device().index();
  const auto options = x.options().dtype(at::kFloat);
  Tensor part = at::empty({k.b, k.parts, k.groups, 2}, options), stats = at::empty({k.b, k.groups, 2}, options);
  Tensor s = scale.contiguous(), h = shift.contiguous();
  void *px = x.data_ptr(), *pp = part.data_ptr(), *pt = stats.data_ptr(), *ps = s.data_ptr(), *ph = h.data_ptr(), *py = y.data_ptr();
  int parts = k.parts, frames = f.frames, whole = f.whole, first = f.first;
  float epsilon = static_cast<float>(i.floats[0]);
  const unsigned batch = static_cast<unsigned>(k.b);
  launch(compiled(kSource, "gnStats", k.defines, device), parts, batch, 256, arguments(px, pp, parts));
  launch(compiled(kSource, "gnFinish", k.defines, device), batch, 1, 64, arguments(px, pp, pt, parts, epsilon));
  launch(compiled(kSource, "gnApply", k.defines, device), parts, batch, 256,
         arguments(px, ps, ph, pt, py, parts, frames, whole, first));
  return stats;
}

void cudaGroupNormGrad(const Instruction& i, const Tensor& given, const Tensor& scale, const Tensor& shift, const Tensor& dyGiven,
                       Tensor stats, Tensor& dx, Tensor& dscale, Tensor& dshift) {
  const Tensor x = given.contiguous(), dy = dyGiven.contiguous();
  GroupKernels k = groupKernels(i, x, i.ints[0], i.ints[1] != 0, dy, dx.scalar_type());
  const Frames f = framesOf(i);
  const int device = x.device().index();
  const auto options = x.options().dtype(at::kFloat);
  Tensor s = scale.contiguous(), h = shift.contiguous();
  void *px = x.data_ptr(), *pd = dy.data_ptr(), *ps = s.data_ptr(), *ph = h.data_ptr();
  int parts = k.parts, frames = f.frames, whole = f.whole, first = f.first, count = static_cast<int>(k.b);
  const unsigned batch = static_cast<unsigned>(k.b);
  if (!stats.defined()) {
    Tensor part = at::empty({k.b, k.parts, k.groups, 2}, options);
    stats = at::empty({k.b, k.groups, 2}, options);
    void *pp = part.data_ptr(), *pt = stats.data_ptr();
    float epsilon = static_cast<float>(i.floats[0]);
    launch(compiled(kSource, "gnStats", k.defines, device), parts, batch, 256, arguments(px, pp, parts));
    launch(compiled(kSource, "gnFinish", k.defines, device), batch, 1, 64, arguments(px, pp, pt, parts, epsilon));
  }
  Tensor part = at::empty({k.b, k.parts, k.c, 2}, options), channel = at::empty({k.b, k.c, 2}, options);
  Tensor group = at::empty({k.b, k.groups, 2}, options);
  void *pt = stats.data_ptr(), *pp = part.data_ptr(), *pc = channel.data_ptr(), *pg = group.data_ptr(), *px2 = dx.data_ptr();
  void *pds = dscale.data_ptr(), *pdh = dshift.data_ptr();
  launch(compiled(kSource, "gnGradSums", k.defines, device), parts, batch, 256,
         arguments(px, pd, ps, ph, pt, pp, parts, frames, whole, first));
  launch(compiled(kSource, "gnGradFinish", k.defines, device), batch, 1, 256, arguments(pp, ps, pc, pg, parts));
  launch(compiled(kSource, "gnGradParameters", k.defines, device), static_cast<unsigned>((k.c + 31) / 32), 1, 32,
         arguments(pc, pds, pdh, count));
  launch(compiled(kSource, "gnGradApply", k.defines, device), parts, batch, 256,
         arguments(px, pd, ps, ph, pt, pg, px2, parts, frames, whole, first));
}

bool cudaLayerNormFits(const Tensor& x) {
  const int64_t c = x.size(-1);
  return x.is_cuda() && x.numel() > 0 && c % 4 == 0 && c <= 4096;
}

static std::string layerDefines(int64_t c, at::ScalarType x, at::ScalarType d, at::ScalarType y, int sums, int& threads) {
  const int64_t vec = c % 8 == 0 && c >= 2048 ? 8 : 4;
  threads = static_cast<int>((c / vec + 31) / 32 * 32);
  auto name = [](at::ScalarType t) { return std::string(t == at::kBFloat16 ? "unsigned short" : "float"); };
  return kPrelude + std::string("#define VEC ") + std::to_string(vec) + "\n#define C " + std::to_string(c) + "\n#define THREADS " +
         std::to_string(threads) + "\n#define SUMS " + std::to_string(sums) + "\ntypedef " + name(x) + " X;\ntypedef " + name(y) + " Y;\ntypedef " + name(d) + " D;\n";
}

// Returns mean and rate of each row: [R, 2]. With `added`, the norm is that of x + added, which goes to `sum` (float32).
Tensor cudaLayerNorm(const Instruction& i, const Tensor& given, const Tensor& scale, const Tensor& shift, Tensor& y,
                     const Tensor& added, const Tensor& sum) {
  const Tensor x = given.contiguous(), more = added.defined() ? added.contiguous() : added;
  const int64_t c = x.size(-1), rows = x.numel() / c;
  int threads;
  const at::ScalarType type = more.defined() ? more.scalar_type() : at::kFloat;
  const std::string defines = layerDefines(c, x.scalar_type(), type, y.scalar_type(), 2, threads);
  Tensor stats = at::empty({rows, 2}, x.options().dtype(at::kFloat)), s = scale.contiguous(), h = shift.contiguous();
  void *px = x.data_ptr(), *ps = s.data_ptr(), *ph = h.data_ptr(), *py = y.data_ptr(), *pt = stats.data_ptr();
  void* pa = more.defined() ? more.data_ptr() : nullptr;
  void* pm = more.defined() ? sum.data_ptr() : nullptr;
  float epsilon = static_cast<float>(i.floats[0]);
  launch(compiled(kLayerSource, "lnForward", defines, x.device().index()), rows, 1, threads,
         arguments(px, ps, ph, py, pt, epsilon, pa, pm));
  return stats;
}

void cudaLayerNormGrad(const Instruction& i, const Tensor& given, const Tensor& scale, const Tensor& shift, const Tensor& dyGiven,
                       Tensor stats, Tensor& dx, Tensor& dscale, Tensor& dshift, Tensor residual, Tensor narrowed, Tensor dsum) {
  const Tensor x = given.contiguous(), dy = dyGiven.contiguous();
  if (residual.defined()) residual = residual.contiguous();
  const int64_t c = x.size(-1), rows = x.numel() / c;
  if (!stats.defined()) {
    Tensor y = at::empty_like(x);
    stats = cudaLayerNorm(i, x, scale, shift, y, {}, {});
  }
  int threads;
  const int sums = dsum.defined() ? 3 : 2;
  const std::string defines = layerDefines(c, x.scalar_type(), dy.scalar_type(), dx.scalar_type(), sums, threads);
  const int64_t blocks = std::min<int64_t>(rows, 132 * 4);
  Tensor part = at::empty({blocks, sums, c}, x.options().dtype(at::kFloat)), s = scale.contiguous();
  void *px = x.data_ptr(), *pd = dy.data_ptr(), *ps = s.data_ptr(), *pt = stats.data_ptr(), *px2 = dx.data_ptr(), *pp = part.data_ptr();
  void *pds = dscale.data_ptr(), *pdh = dshift.data_ptr();
  void* pr = residual.defined() ? residual.data_ptr() : nullptr;
  void* pn = narrowed.defined() ? narrowed.data_ptr() : nullptr;
  void* pds3 = dsum.defined() ? dsum.data_ptr() : nullptr;
  int count = static_cast<int>(rows), n = static_cast<int>(blocks);
  launch(compiled(kLayerSource, "lnBackward", defines, x.device().index()), static_cast<unsigned>(blocks), 1, threads,
         arguments(px, pd, ps, pt, px2, pp, count, pr, pn));
  launch(compiled(kLayerSource, "lnParameters", defines, x.device().index()), (c + 31) / 32, sums, 256,
         arguments(pp, pds, pdh, pds3, n));
}

}  // namespace tessera
