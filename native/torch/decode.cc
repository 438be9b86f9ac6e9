// Decoding token after token on CUDA: products of a few rows with the norm before and what follows them, and
// attention over a cache. At one row the time is that of reading weights and keys once, so every kernel has
// enough loads under way and there are five of them to a transformer block. Sums run in a fixed order.
#include "kernel_cache.h"

namespace tessera {

bool cudaCacheWrite(at::Tensor& cache, const at::Tensor& rows, const at::Tensor& position);
bool cudaCachedAttentionFits(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values);
void cudaCachedAttention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, const at::Tensor& position,
                         double scale, at::Tensor& y);

namespace {

using at::Tensor;

std::string typeName(const Tensor& t) { return t.scalar_type() == at::kBFloat16 ? "bf16" : "float"; }
std::string define(const std::string& name, int64_t value) { return "#define " + name + " " + std::to_string(value) + "\n"; }
std::string alias(const std::string& name, const Tensor& t) { return "typedef " + typeName(t) + " " + name + ";\n"; }

// y [M, N] = act(norm(x [M, K]) w [N, K]ᵀ + bias) + residual: a warp takes an output, whose weights lie end to end.
// The first of them are asked for before the rows are looked at.
const char* kRowsSource = R"(
FORCE float dot8(uint4 w, const float* x, float sum) {
  const unsigned parts[4] = {w.x, w.y, w.z, w.w};
  #pragma unroll
  for (int e = 0; e < 4; e++) {
    sum += __uint_as_float(parts[e] << 16) * x[2 * e];
    sum += __uint_as_float(parts[e] & 0xffff0000u) * x[2 * e + 1];
  }
  return sum;
}
// Sums of distances from a row's first value keep the variance exact without a second look at the row.
extern "C" __global__ void __launch_bounds__(256) fewRows(const X* x, const bf16* __restrict__ w, const B* __restrict__ bias,
                                                          const float* __restrict__ scale, const float* __restrict__ shift,
                                                          const R* residual, Y* y, float epsilon) {
  extern __shared__ float rows[];  // [M, K]
  __shared__ float room[64];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int n = blockIdx.x * 8 + warp;
  const uint4* own = (const uint4*)(w + (long)min(n, N - 1) * K) + lane;
  constexpr int chunks = K / 256, ahead = chunks < 8 ? chunks : 8;
  uint4 first[ahead];
  #pragma unroll
  for (int c = 0; c < ahead; c++) first[c] = __ldg(own + c * 32);
  successors();
  predecessors();
  for (int m = 0; m < M; m++) {
    float v[chunks];
    #pragma unroll
    for (int c = 0; c < chunks; c++) v[c] = get(x[m * K + c * 256 + threadIdx.x]);
    if (NORM) {
      const float pivot = get(x[m * K]);
      float s = 0.0f, q = 0.0f;
      #pragma unroll
      for (int c = 0; c < chunks; c++) {
        v[c] -= pivot;
        s += v[c];
        q += v[c] * v[c];
      }
      total<256>(s, q, room);
      const float mean = s / K, rate = rsqrtf(fmaxf(q / K - mean * mean, 0.0f) + epsilon);
      #pragma unroll
      for (int c = 0; c < chunks; c++) {
        const int k = c * 256 + threadIdx.x;
        v[c] = (v[c] - mean) * rate * scale[k] + shift[k];
      }
    }
    #pragma unroll
    for (int c = 0; c < chunks; c++) rows[m * K + c * 256 + threadIdx.x] = v[c];
  }
  __syncthreads();
  if (n >= N) return;
  float sums[M];
  #pragma unroll
  for (int m = 0; m < M; m++) sums[m] = 0.0f;
  #pragma unroll
  for (int c = 0; c < chunks; c++) {
    const uint4 part = c < ahead ? first[c < ahead ? c : 0] : __ldg(own + c * 32);
    #pragma unroll
    for (int m = 0; m < M; m++) sums[m] = dot8(part, rows + m * K + (c * 32 + lane) * 8, sums[m]);
  }
  #pragma unroll
  for (int m = 0; m < M; m++) {
    float s = sums[m];
    #pragma unroll
    for (int o = 16; o > 0; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
    if (lane == 0) {
      if (BIAS) s += get(bias[n]);
      if (GELU) s = 0.5f * s * (1.0f + erff(s * 0.70710678118654752f));
      if (RESIDUAL) s += get(residual[m * N + n]);
      put(y[m * N + n], s);
    }
  }
}
)";

// ints: M, K, then whether there are a bias, a norm, GELU, a residual. Inputs in this order: x, w, bias, scale and
// shift of the norm, residual. floats: epsilon.
struct FewRows {
  int64_t m, k, n;
  bool norm, gelu;
  Tensor x, w, bias, scale, shift, residual;
};

FewRows fewRowsOf(const Instruction& i, Slots& s) {
  FewRows f;
  size_t next = 2;
  f.m = i.ints[0];
  f.k = i.ints[1];
  f.x = arg(i, s, 0).reshape({f.m, f.k}).contiguous();
  f.w = arg(i, s, 1);
  f.n = f.w.size(0);
  if (i.ints[2]) f.bias = arg(i, s, next++).contiguous();
  f.norm = i.ints[3] != 0;
  if (f.norm) {
    f.scale = arg(i, s, next++).contiguous();
    f.shift = arg(i, s, next++).contiguous();
  }
  f.gelu = i.ints[4] != 0;
  if (i.ints[5]) f.residual = arg(i, s, next++).reshape({f.m, f.n}).contiguous();
  return f;
}

void* address(const Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; }

void fewRows(const Instruction& i, Slots& s, Machine& m) {
  FewRows f = fewRowsOf(i, s);
  if (!m.cuda()) {
    Tensor x = f.x.to(at::kFloat);
    if (f.norm) x = at::layer_norm(x, {f.k}, f.scale, f.shift, i.floats[0]).to(at::kBFloat16).to(at::kFloat);
    Tensor y = at::matmul(x, f.w.to(at::kFloat).t());
    if (f.bias.defined()) y = y + f.bias.to(at::kFloat);
    if (f.gelu) y = at::gelu(y);
    if (f.residual.defined()) y = y + f.residual.to(at::kFloat);
    put(i, s, 0, y.view(i.specs[0].shape));
    return;
  }
  Tensor y = at::empty(i.specs[0].shape, f.x.options().dtype(i.specs[0].type));
  const Tensor none = at::Tensor();
  const std::string defines = kPrelude + define("M", f.m) + define("K", f.k) + define("N", f.n) + define("NORM", f.norm) +
                              define("GELU", f.gelu) + define("BIAS", f.bias.defined()) +
                              define("RESIDUAL", f.residual.defined()) + alias("X", f.x) + alias("Y", y) +
                              alias("B", f.bias.defined() ? f.bias : f.x) + alias("R", f.residual.defined() ? f.residual : f.x);
  void *px = address(f.x), *pw = address(f.w), *pb = address(f.bias), *ps = address(f.scale), *ph = address(f.shift);
  void *pr = address(f.residual), *py = y.data_ptr();
  float epsilon = f.norm ? static_cast<float>(i.floats[0]) : 0.0f;
  launch(compiled(kRowsSource, "fewRows", defines, f.x.device().index()), (f.n + 7) / 8, 1, 256,
         arguments(px, pw, pb, ps, ph, pr, py, epsilon), f.m * f.k * sizeof(float), m.turn);
  s[i.out[0]] = y;
}

// Weights [K, N] as [N, K], laid out so.
void turned(const Instruction& i, Slots& s, Machine&) { put(i, s, 0, arg(i, s, 0).t().contiguous()); }

// Attention of one new place for each of B·h heads. Blocks take CHUNK places each; the block that finishes last puts
// the parts of its head together. The new key and value go into the cache on the way.
const char* kStepSource = R"(
FORCE float4 load4(const float* p) { return *(const float4*)p; }
FORCE float4 load4(const bf16* p) {
  const uint2 v = *(const uint2*)p;
  return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                     __uint_as_float(v.y & 0xffff0000u));
}
extern "C" __global__ void __launch_bounds__(256) step(const X* q, K* keys, K* values, const X* newKey, const X* newValue,
                                                       const int* position, float* parts, unsigned* arrived, Y* y, float scale, int places, int heads, int splits, long qb,
                                                       long qh, long kb, long kh, long vb, long vh) {
  __shared__ float query[D], scores[CHUNK], room[64], sums[1024];
  __shared__ bool last;
  const int t = threadIdx.x, warp = t / 32, lane = t % 32;
  const int split = blockIdx.x, bh = blockIdx.y;
  successors();
  predecessors();
  const int at = position[0], seen = min(places, at + 1), active = (seen + CHUNK - 1) / CHUNK;
  if (split >= active) return;
  const long b = bh / heads, h = bh % heads;
  K* headKeys = keys + (long)bh * places * D;
  K* headValues = values + (long)bh * places * D;
  const int begin = split * CHUNK, count = min(seen - begin, CHUNK);
  for (int k = t; k < D; k += 256) {
    query[k] = get(q[b * qb + h * qh + k]) * scale;
    if (at >= begin && at < begin + count) {
      put(headKeys[(long)at * D + k], get(newKey[b * kb + h * kh + k]));
      put(headValues[(long)at * D + k], get(newValue[b * vb + h * vh + k]));
    }
  }
  __syncthreads();
  // Four lanes a key.
  float top = -INFINITY_;
  #pragma unroll
  for (int r = 0; r < CHUNK / 64; r++) {
    const int j = r * 64 + t / 4;
    float s = 0.0f;
    if (j < count) {
      const K* row = headKeys + (long)(begin + j) * D;
      #pragma unroll
      for (int k = (t % 4) * 4; k < D; k += 16) {
        const float4 v = load4(row + k);
        s += query[k] * v.x + query[k + 1] * v.y + query[k + 2] * v.z + query[k + 3] * v.w;
      }
    }
    s += __shfl_xor_sync(0xffffffffu, s, 1);
    s += __shfl_xor_sync(0xffffffffu, s, 2);
    if (j < count) {
      if (t % 4 == 0) scores[j] = s;
      top = fmaxf(top, s);
    }
  }
  #pragma unroll
  for (int o = 16; o > 0; o >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
  if (lane == 0) room[warp] = top;
  __syncthreads();
  #pragma unroll
  for (int k = 0; k < 8; k++) top = fmaxf(top, room[k]);
  float e = 0.0f, none = 0.0f;
  if (t < count) {
    e = expf(scores[t] - top);
    scores[t] = e;
  }
  total<256>(e, none, room);  // waits for all before and after
  // D / 4 lanes a value.
  constexpr int width = D / 4, groups = 256 / width;
  const int group = t / width, d = t % width * 4;
  if (group < groups) {
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    #pragma unroll 8
    for (int j = group; j < count; j += groups) {
      const float4 v = load4(headValues + (long)(begin + j) * D + d);
      const float p = scores[j];
      sum.x += p * v.x;
      sum.y += p * v.y;
      sum.z += p * v.z;
      sum.w += p * v.w;
    }
    *(float4*)(sums + group * D + d) = sum;
  }
  __syncthreads();
  float own = 0.0f;
  if (t < D) {
    for (int g = 0; g < groups; g++) own += sums[g * D + t];
    if (active == 1) put(y[(long)bh * D + t], own / e);
  }
  if (active == 1) return;
  float* mine = parts + ((long)bh * splits + split) * (D + 2);
  if (t < D) mine[2 + t] = own;
  if (t == 0) {
    mine[0] = top;
    mine[1] = e;
  }
  __threadfence();
  __syncthreads();
  if (t == 0) last = atomicInc(arrived + bh, active - 1) == active - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  const float* all = parts + (long)bh * splits * (D + 2);
  float most = -INFINITY_;
  for (int k = 0; k < active; k++) most = fmaxf(most, __ldcg(all + (long)k * (D + 2)));
  float sum = 0.0f, weight = 0.0f;
  for (int k = 0; k < active; k++) {
    const float* part = all + (long)k * (D + 2);
    const float share = expf(__ldcg(part) - most);
    weight += share * __ldcg(part + 1);
    if (t < D) sum += share * __ldcg(part + 2 + t);
  }
  if (t < D) put(y[(long)bh * D + t], sum / weight);
}
)";

constexpr int64_t kChunk = 128;

// Inputs: query [B, h, 1, d], cache of keys, new key, cache of values, new value, position. Outputs: what attention
// gives, and both caches, written in place.
void cachedStep(const Instruction& i, Slots& s, Machine& m) {
  const Tensor &q = arg(i, s, 0), &newKey = arg(i, s, 2), &newValue = arg(i, s, 4), &position = arg(i, s, 5);
  Tensor keys = arg(i, s, 1), values = arg(i, s, 3);
  const int64_t d = q.size(3), heads = q.size(1), batch = q.size(0), places = keys.size(2);
  auto straight = [&](const Tensor& t) { return t.stride(3) == 1 && t.scalar_type() == q.scalar_type(); };
  const bool fits = m.cuda() && batch * heads <= 65535 && cudaCachedAttentionFits(q, keys, values) && straight(newKey) && straight(newValue) &&
                    (keys.scalar_type() == at::kFloat || keys.scalar_type() == at::kBFloat16);
  if (fits) {
    const int64_t splits = (places + kChunk - 1) / kChunk;
    if (!i.cache) i.cache = std::make_shared<Tensor>(at::zeros({batch * heads}, position.options()));
    Tensor parts = at::empty({batch * heads, splits, d + 2}, keys.options().dtype(at::kFloat));
    Tensor y = at::empty(i.specs[0].shape, keys.options().dtype(i.specs[0].type));
    const std::string defines = kPrelude + define("D", d) + define("CHUNK", kChunk) + alias("X", q) + alias("K", keys) + alias("Y", y);
    void *pq = q.data_ptr(), *pk = keys.data_ptr(), *pv = values.data_ptr(), *pnk = newKey.data_ptr(), *pnv = newValue.data_ptr();
    void *pp = position.data_ptr(), *pparts = parts.data_ptr(), *py = y.data_ptr();
    void* pa = static_cast<Tensor*>(i.cache.get())->data_ptr();
    float scale = static_cast<float>(i.floats[0]);
    int n = static_cast<int>(places), hs = static_cast<int>(heads), count = static_cast<int>(splits);
    int64_t qb = q.stride(0), qh = q.stride(1), kb = newKey.stride(0), kh = newKey.stride(1), vb = newValue.stride(0), vh = newValue.stride(1);
    launch(compiled(kStepSource, "step", defines, q.device().index()), static_cast<unsigned>(splits),
           static_cast<unsigned>(batch * heads), 256,
           arguments(pq, pk, pv, pnk, pnv, pp, pparts, pa, py, scale, n, hs, count, qb, qh, kb, kh, vb, vh), 0, m.turn);
    s[i.out[0]] = y;
  } else {
    auto write = [&](Tensor& cache, const Tensor& row) {
      if (!cudaCacheWrite(cache, row, position)) cache.index_copy_(2, position.to(at::kLong).reshape({1}), row.to(cache.scalar_type()));
    };
    write(keys, newKey);
    write(values, newValue);
    if (m.cuda() && cudaCachedAttentionFits(q, keys, values)) {
      Tensor y = at::empty(i.specs[0].shape, keys.options().dtype(i.specs[0].type));
      cudaCachedAttention(q, keys, values, position, i.floats[0], y);
      s[i.out[0]] = y;
    } else {
      Tensor scores = at::matmul(q.to(at::kFloat) * i.floats[0], keys.to(at::kFloat).transpose(-1, -2));
      Tensor hidden = at::arange(places, position.options()) > position;
      put(i, s, 0, at::matmul(at::softmax(scores.masked_fill(hidden, -INFINITY), -1), values.to(at::kFloat)));
    }
  }
  s[i.out[1]] = keys;
  s[i.out[2]] = values;
}

// Any number of new places: a block for each query [D] over the places up to its own of one head.
const char* kCachedSource = R"(
extern "C" __global__ void __launch_bounds__(256) cached(const X* __restrict__ q, const K* __restrict__ keys, const K* __restrict__ values,
                                                         const int* __restrict__ position, Y* y, float scale, int places, int count,
                                                         long qb, long qh, long qn, int heads) {
  extern __shared__ float scores[];
  __shared__ float query[D], room[8], sums[256];
  const int n = blockIdx.x % count;
  const long bh = blockIdx.x / count;
  const int seen = min(places, position[0] + n + 1);
  const X* own = q + (bh / heads) * qb + (bh % heads) * qh + n * qn;
  for (int k = threadIdx.x; k < D; k += 256) query[k] = get(own[k]) * scale;
  __syncthreads();
  const K* head = keys + bh * (long)places * D;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float top = -INFINITY_;
  // Four lanes a key: a warp takes eight keys at a time.
  const int part = lane % 4;
  for (int j0 = warp * 8; j0 < seen; j0 += 64) {
    const int j = j0 + lane / 4;
    float s = 0.0f;
    if (j < seen) {
      const K* row = head + (long)j * D;
      #pragma unroll
      for (int k = part * 4; k < D; k += 16) {
        #pragma unroll
        for (int e = 0; e < 4; e++) s += query[k + e] * get(row[k + e]);
      }
    }
    s += __shfl_xor_sync(0xffffffffu, s, 1);
    s += __shfl_xor_sync(0xffffffffu, s, 2);
    if (j < seen) {
      if (part == 0) scores[j] = s;
      top = fmaxf(top, s);
    }
  }
  #pragma unroll
  for (int o = 16; o > 0; o >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
  if (lane == 0) room[warp] = top;
  __syncthreads();
  top = room[0];
  for (int k = 1; k < 8; k++) top = fmaxf(top, room[k]);
  __syncthreads();
  float total = 0.0f;
  for (int j = threadIdx.x; j < seen; j += 256) {
    const float e = expf(scores[j] - top);
    scores[j] = e;
    total += e;
  }
  #pragma unroll
  for (int o = 16; o > 0; o >>= 1) total += __shfl_xor_sync(0xffffffffu, total, o);
  if (lane == 0) room[warp] = total;
  __syncthreads();
  total = 0.0f;
  for (int k = 0; k < 8; k++) total += room[k];
  const K* from = values + bh * (long)places * D;
  const int groups = 256 / D, group = threadIdx.x / D, d = threadIdx.x % D;
  float sum = 0.0f;
  if (group < groups) {
    #pragma unroll 8
    for (int j = group; j < seen; j += groups) sum += scores[j] * get(from[(long)j * D + d]);
    sums[threadIdx.x] = sum;
  }
  __syncthreads();
  if (threadIdx.x < D) {
    sum = 0.0f;
    for (int g = 0; g < groups; g++) sum += sums[g * D + threadIdx.x];
    put(y[(bh * count + n) * D + threadIdx.x], sum / total);
  }
}
)";

const char* kCacheSource = R"(
extern "C" __global__ void write(const X* __restrict__ rows, Y* cache, const int* __restrict__ position, int all, int heads, int count,
                                 int d, int places, long rb, long rh, long rn) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= all) return;
  const int e = i % d, n = i / d % count, h = i / d / count % heads, b = i / d / count / heads;
  const int place = position[0] + n;
  if (place < 0 || place >= places) return;
  put(cache[(((long)b * heads + h) * places + place) * d + e], get(rows[b * rb + h * rh + n * rn + e]));
}
)";

}  // namespace

// Write rows [B, h, n, d] into a cache [B, h, N, d] at a position. False where the kernel does not fit.
bool cudaCacheWrite(Tensor& cache, const Tensor& rows, const Tensor& position) {
  auto plain = [](at::ScalarType t) { return t == at::kFloat || t == at::kBFloat16; };
  if (!cache.is_cuda() || rows.numel() == 0 || !cache.is_contiguous() || rows.stride(3) != 1 || !plain(cache.scalar_type()) || !plain(rows.scalar_type())) {
    return false;
  }
  const std::string defines = kPrelude + std::string("typedef ") + typeName(rows) + " X;\ntypedef " + typeName(cache) + " Y;\n";
  void *pr = rows.data_ptr(), *pc = cache.data_ptr(), *pp = position.data_ptr();
  int all = static_cast<int>(rows.numel()), heads = static_cast<int>(rows.size(1)), count = static_cast<int>(rows.size(2));
  int d = static_cast<int>(rows.size(3)), places = static_cast<int>(cache.size(2));
  int64_t rb = rows.stride(0), rh = rows.stride(1), rn = rows.stride(2);
  launch(compiled(kCacheSource, "write", defines, cache.device().index()), static_cast<unsigned>((all + 255) / 256), 1, 256,
         arguments(pr, pc, pp, all, heads, count, d, places, rb, rh, rn));
  return true;
}

bool cudaCachedAttentionFits(const Tensor& q, const Tensor& keys, const Tensor& values) {
  const int64_t d = q.size(3);
  return q.is_cuda() && q.numel() > 0 && d % 16 == 0 && d <= 256 && q.stride(3) == 1 && keys.is_contiguous() && values.is_contiguous() &&
         values.size(3) == d && keys.size(2) <= 16384 && keys.scalar_type() == values.scalar_type();
}

void cudaCachedAttention(const Tensor& q, const Tensor& keys, const Tensor& values, const Tensor& position, double scale, Tensor& y) {
  const std::string defines = kPrelude + std::string("#define D ") + std::to_string(q.size(3)) + "\ntypedef " +
                              typeName(q) + " X;\ntypedef " + typeName(keys) + " K;\ntypedef " +
                              typeName(y) + " Y;\n";
  void *pq = q.data_ptr(), *pk = keys.data_ptr(), *pv = values.data_ptr(), *pp = position.data_ptr(), *py = y.data_ptr();
  float factor = static_cast<float>(scale);
  int places = static_cast<int>(keys.size(2)), count = static_cast<int>(q.size(2)), heads = static_cast<int>(q.size(1));
  int64_t qb = q.stride(0), qh = q.stride(1), qn = q.stride(2);
  launch(compiled(kCachedSource, "cached", defines, q.device().index()), static_cast<unsigned>(q.size(0) * q.size(1) * q.size(2)), 1, 256,
         arguments(pq, pk, pv, pp, py, factor, places, count, qb, qh, qn, heads), static_cast<unsigned>(places * sizeof(float)));
}

void addDecoding(Registry& r) {
  r["FewRows"] = fewRows;
  r["Turned"] = turned;
  r["CachedStep"] = cachedStep;
}

}  // namespace tessera
