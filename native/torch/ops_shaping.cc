// Kernels that move, select or count values: views where they can be, copies where they must.
#include "kernel_cache.h"

namespace tessera {
namespace {

using at::Tensor;

Tensor onDevice(const std::vector<int64_t>& values, const Tensor& like) {
  return at::tensor(values, at::kLong).to(like.device());
}

void reshape(const Instruction& i, Slots& s, Machine&) {
  put(i, s, 0, arg(i, s, 0).reshape(i.specs[0].shape));
}

void transpose(const Instruction& i, Slots& s, Machine&) { put(i, s, 0, arg(i, s, 0).permute(i.ints)); }

// A view over no memory of its own: every stride is 0.
void fill(const Instruction& i, Slots& s, Machine& m) {
  const auto options = at::TensorOptions().device(m.engine.device).dtype(i.specs[0].type);
  put(i, s, 0, at::full({}, at::Scalar(i.floats[0]), options).expand(i.specs[0].shape));
}

// Parts that are views of rank 4 with whole rows of 16 bytes, as the gradients of queries, keys and values are:
// one kernel for all, 16 bytes a thread. Sizes and strides are constants or count units of 16 bytes.
const char* kConcatSource = R"(
extern "C" __global__ void __launch_bounds__(256) concat(const uint4* a, const uint4* b, const uint4* c, const uint4* d, uint4* y,
                                                         long s0, long s1, long s2, long whole, long row, int n0) {
  const int part = blockIdx.y;
  const uint4* from = part == 0 ? a : part == 1 ? b : part == 2 ? c : d;
  const unsigned long i = (unsigned long)blockIdx.x * 256 + threadIdx.x;
  if (i >= (unsigned long)n0 * N1 * N2 * N3) return;
  const unsigned e = i % N3, h = i / N3 % N2, n = i / ((unsigned long)N3 * N2) % N1;
  const unsigned long k = i / ((unsigned long)N3 * N2 * N1);
  y[k * whole + n * row + (unsigned long)part * N2 * N3 + h * N3 + e] = from[k * s0 + n * s1 + h * s2 + e];
}
)";

// Whether that kernel has joined the parts along axis 2.
bool cudaConcat(const Instruction& i, Slots& s, const Tensor& y) {
  const Tensor& first = arg(i, s, 0);
  if (!y.is_cuda() || i.ints[0] != 2 || first.dim() != 4 || i.in.size() > 4 || y.numel() == 0) return false;
  const int64_t unit = 16 / y.element_size();
  auto even = [&](int64_t n) { return n % unit == 0; };
  std::vector<void*> parts;
  for (size_t k = 0; k < i.in.size(); k++) {
    const Tensor& part = arg(i, s, k);
    if (part.sizes() != first.sizes() || part.strides() != first.strides() || part.scalar_type() != y.scalar_type() ||
        part.stride(3) != 1 || reinterpret_cast<uintptr_t>(part.data_ptr()) % 16 != 0) {
      return false;
    }
    parts.push_back(part.data_ptr());
  }
  if (!even(first.size(3)) || !even(first.stride(0)) || !even(first.stride(1)) || !even(first.stride(2))) return false;
  const int64_t n1 = first.size(1), n2 = first.size(2), n3 = first.size(3) / unit;
  if (n1 * n2 * n3 >= int64_t{1} << 31) return false;
  void *a = parts[0], *b = parts.size() > 1 ? parts[1] : a, *c = parts.size() > 2 ? parts[2] : a, *d = parts.size() > 3 ? parts[3] : a;
  void* py = y.data_ptr();
  int64_t s0 = first.stride(0) / unit, s1 = first.stride(1) / unit, s2 = first.stride(2) / unit;
  int64_t row = static_cast<int64_t>(parts.size()) * n2 * n3, whole = row * n1;
  int n0 = static_cast<int>(first.size(0));
  const std::string defines = "#define N1 " + std::to_string(n1) + "\n#define N2 " + std::to_string(n2) + "\n#define N3 " +
                              std::to_string(n3) + "\n";
  launch(compiled(kConcatSource, "concat", defines, y.device().index()), (n0 * n1 * n2 * n3 + 255) / 256,
         static_cast<int64_t>(parts.size()), 256, arguments(a, b, c, d, py, s0, s1, s2, whole, row, n0));
  return true;
}

void concat(const Instruction& i, Slots& s, Machine&) {
  // Else one strided copy a part: at::cat is slow where parts are transposed views.
  Tensor y = at::empty(i.specs[0].shape, arg(i, s, 0).options().dtype(i.specs[0].type));
  if (cudaConcat(i, s, y)) {
    s[i.out[0]] = y;
    return;
  }
  int64_t offset = 0;
  for (size_t k = 0; k < i.in.size(); k++) {
    const Tensor& part = arg(i, s, k);
    y.narrow(i.ints[0], offset, part.size(i.ints[0])).copy_(part);
    offset += part.size(i.ints[0]);
  }
  put(i, s, 0, y);
}

// ints: begin, size, steps, one number an axis each. A negative step walks back from `begin`.
void slice(const Instruction& i, Slots& s, Machine&) {
  Tensor x = arg(i, s, 0);
  const int64_t rank = x.dim();
  for (int64_t a = 0; a < rank; a++) {
    const int64_t begin = i.ints[a], size = i.ints[rank + a], step = i.ints[2 * rank + a];
    if (size == x.size(a) && step == 1) continue;
    if (size == 0) {
      x = x.narrow(a, 0, 0);
    } else if (step > 0) {
      x = x.slice(a, begin, begin + (size - 1) * step + 1, step);
    } else {
      const int64_t last = begin + (size - 1) * step;
      x = x.slice(a, last, begin + 1, -step).flip({a});
    }
  }
  put(i, s, 0, x);
}

void reverse(const Instruction& i, Slots& s, Machine&) { put(i, s, 0, arg(i, s, 0).flip(i.ints)); }

void tile(const Instruction& i, Slots& s, Machine&) { put(i, s, 0, arg(i, s, 0).repeat(i.ints)); }

// ints: before and after, one pair an axis.
void pad(const Instruction& i, Slots& s, Machine&) {
  const Tensor& x = arg(i, s, 0);
  Tensor y = at::empty(i.specs[0].shape, x.options());
  Tensor inner = y;
  for (int64_t a = 0; a < x.dim(); a++) {
    const int64_t before = i.ints[2 * a], after = i.ints[2 * a + 1];
    if (before > 0) inner.narrow(a, 0, before).fill_(i.floats[0]);
    if (after > 0) inner.narrow(a, inner.size(a) - after, after).fill_(i.floats[0]);
    inner = inner.narrow(a, before, x.size(a));
  }
  inner.copy_(x);
  put(i, s, 0, y);
}

// Mirrored with ("symmetric") or without ("reflect") the border value, any rank and type.
void mirrorPad(const Instruction& i, Slots& s, Machine&) {
  Tensor x = arg(i, s, 0);
  const int64_t skip = i.text == "reflect" ? 1 : 0;
  // The places are sent once: a CUDA graph cannot copy them from pageable memory.
  if (!i.cache) i.cache = std::make_shared<std::map<int64_t, Tensor>>();
  auto& places = *static_cast<std::map<int64_t, Tensor>*>(i.cache.get());
  for (int64_t a = 0; a < x.dim(); a++) {
    const int64_t before = i.ints[2 * a], after = i.ints[2 * a + 1], side = x.size(a);
    if (before == 0 && after == 0) continue;
    std::vector<int64_t> at;
    for (int64_t k = before; k > 0; k--) at.push_back(k - 1 + skip);
    for (int64_t k = 0; k < side; k++) at.push_back(k);
    for (int64_t k = 0; k < after; k++) at.push_back(side - 1 - skip - k);
    if (!places[a].defined()) places[a] = onDevice(at, x);
    x = x.index_select(a, places[a]);
  }
  put(i, s, 0, x);
}

void gather(const Instruction& i, Slots& s, Machine&) {
  const Tensor& x = arg(i, s, 0);
  Tensor flat = arg(i, s, 1).to(at::kLong).reshape({-1});
  put(i, s, 0, x.index_select(i.ints[0], flat).reshape(i.specs[0].shape));
}

// Row numbers of coordinates [..., k] in a tensor whose first k axes are given.
Tensor rowNumbers(const Tensor& indices, at::IntArrayRef shape) {
  const int64_t k = indices.size(-1);
  Tensor flat = indices.to(at::kLong).reshape({-1, k});
  Tensor rows = at::zeros({flat.size(0)}, flat.options());
  for (int64_t a = 0; a < k; a++) rows = rows * shape[a] + flat.select(1, a);
  return rows;
}

void gatherNd(const Instruction& i, Slots& s, Machine&) {
  const Tensor &x = arg(i, s, 0), &indices = arg(i, s, 1);
  const int64_t k = indices.size(-1);
  int64_t rows = 1;
  for (int64_t a = 0; a < k; a++) rows *= x.size(a);
  Tensor flat = x.reshape({rows, rows == 0 ? 0 : x.numel() / rows});
  put(i, s, 0, flat.index_select(0, rowNumbers(indices, x.sizes())).reshape(i.specs[0].shape));
}

// Updates of one place add up.
void scatterNd(const Instruction& i, Slots& s, Machine&) {
  const Tensor &indices = arg(i, s, 0), &updates = arg(i, s, 1);
  const auto& shape = i.specs[0].shape;
  const int64_t k = indices.size(-1);
  int64_t rows = 1, width = 1;
  for (size_t a = 0; a < shape.size(); a++) (static_cast<int64_t>(a) < k ? rows : width) *= shape[a];
  Tensor sums = at::zeros({rows, width}, updates.options());
  Tensor at = rowNumbers(indices, shape);
  sums.index_add_(0, at, updates.reshape({at.size(0), width}));
  put(i, s, 0, sums.reshape(shape));
}

// An id outside of [0, depth) is no class.
void oneHot(const Instruction& i, Slots& s, Machine&) {
  const Tensor& ids = arg(i, s, 0);
  Tensor classes = at::arange(i.ints[0], ids.options());
  Tensor hit = ids.unsqueeze(-1) == classes;
  const auto options = ids.options().dtype(i.specs[0].type);
  put(i, s, 0, at::where(hit, at::full({}, at::Scalar(i.floats[0]), options), at::full({}, at::Scalar(i.floats[1]), options)));
}

// Rows added by segment; ids outside of the range are dropped.
void segmentSum(const Instruction& i, Slots& s, Machine&) {
  const Tensor &x = arg(i, s, 0), &ids = arg(i, s, 1);
  const int64_t segments = i.ints[0];
  Tensor flatIds = ids.to(at::kLong).reshape({-1});
  Tensor inside = flatIds.ge(0).logical_and(flatIds.lt(segments));
  Tensor safe = at::where(inside, flatIds, at::full({}, segments, flatIds.options()));
  const int64_t count = flatIds.size(0), width = segments == 0 ? 0 : i.specs[0].numel() / segments;
  Tensor rows = wide(x).reshape({count, width});
  Tensor sums = at::zeros({segments + 1, rows.size(1)}, rows.options());
  sums.index_add_(0, safe, rows);
  put(i, s, 0, sums.narrow(0, 0, segments).reshape(i.specs[0].shape));
}

// Channels (bt, bh, bw, C) become positions.
void depthToSpace(const Instruction& i, Slots& s, Machine&) {
  const Tensor& x = arg(i, s, 0);
  const int64_t bt = i.ints[0], bh = i.ints[1], bw = i.ints[2];
  const int64_t b = x.size(0), t = x.size(1), h = x.size(2), w = x.size(3);
  const int64_t c = x.size(4) / (bt * bh * bw);
  put(i, s, 0,
      x.reshape({b, t, h, w, bt, bh, bw, c}).permute({0, 1, 4, 2, 5, 3, 6, 7}).reshape({b, t * bt, h * bh, w * bw, c}));
}

void spaceToDepth(const Instruction& i, Slots& s, Machine&) {
  const Tensor& x = arg(i, s, 0);
  const int64_t bt = i.ints[0], bh = i.ints[1], bw = i.ints[2];
  const int64_t b = x.size(0), t = x.size(1) / bt, h = x.size(2) / bh, w = x.size(3) / bw, c = x.size(4);
  put(i, s, 0,
      x.reshape({b, t, bt, h, bh, w, bw, c}).permute({0, 1, 3, 5, 2, 4, 6, 7}).reshape({b, t, h, w, c * bt * bh * bw}));
}

// Tensors of any shape and type laid end to end, each converted and copied once; many small ones by few kernels.
void join(const Instruction& i, Slots& s, Machine&) {
  std::vector<Tensor> flat;
  for (size_t k = 0; k < i.in.size(); k++) {
    const Tensor& part = arg(i, s, k);
    if (part.scalar_type() != i.specs[0].type || !part.is_contiguous()) break;
    flat.push_back(part.view({-1}));
  }
  if (flat.size() == i.in.size() && flat.size() > 4 && i.specs[0].numel() < int64_t{1} << 22) {
    put(i, s, 0, at::cat(flat));
    return;
  }
  Tensor y = at::empty(i.specs[0].shape, arg(i, s, 0).options().dtype(i.specs[0].type));
  int64_t offset = 0;
  for (size_t k = 0; k < i.in.size(); k++) {
    const Tensor& part = arg(i, s, k);
    y.narrow(0, offset, part.numel()).view(part.sizes()).copy_(part);
    offset += part.numel();
  }
  put(i, s, 0, y);
}

// States that lie end to end in one storage (see Program::bind) join into a view of it.
void concatStates(const Instruction& i, Slots& s, Machine& m) {
  const Tensor& first = arg(i, s, 0);
  int64_t total = 0;
  bool together = true;
  for (size_t k = 0; k < i.in.size() && together; k++) {
    const Tensor& t = arg(i, s, k);
    together = t.is_contiguous() && t.storage().unsafeGetStorageImpl() == first.storage().unsafeGetStorageImpl() &&
               t.storage_offset() == first.storage_offset() + total;
    total += t.numel();
  }
  if (together) {
    put(i, s, 0, first.as_strided({total}, {1}, first.storage_offset()));
  } else {
    join(i, s, m);
  }
}

}  // namespace

void addShaping(Registry& r) {
  r["Reshape"] = reshape;
  r["Transpose"] = transpose;
  r["Fill"] = fill;
  r["Concat"] = concat;
  r["Join"] = join;
  r["ConcatStates"] = concatStates;
  r["Slice"] = slice;
  r["Reverse"] = reverse;
  r["Tile"] = tile;
  r["PadV2"] = pad;
  r["MirrorPad"] = mirrorPad;
  r["GatherV2"] = gather;
  r["GatherNd"] = gatherNd;
  r["ScatterNd"] = scatterNd;
  r["OneHot"] = oneHot;
  r["UnsortedSegmentSum"] = segmentSum;
  r["DepthToSpace3d"] = depthToSpace;
  r["SpaceToDepth3d"] = spaceToDepth;
}

}  // namespace tessera
