// Convolutions, pooling, norms and attention. Tensors are channel-last in the plan; a permuted view of
// one is exactly PyTorch's channels-last memory format, so nothing is copied on the way in or out.
#include "plan.h"

namespace tessera {

// norms.cc
bool cudaGroupNormFits(const at::Tensor& x, int64_t groups);
at::Tensor cudaGroupNorm(const Instruction&, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, at::Tensor& y);
void cudaGroupNormGrad(const Instruction&, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                       const at::Tensor& dy, at::Tensor stats, at::Tensor& dx, at::Tensor& dscale, at::Tensor& dshift);
bool cudaLayerNormFits(const at::Tensor& x);
at::Tensor cudaLayerNorm(const Instruction&, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, at::Tensor& y,
                         const at::Tensor& added, const at::Tensor& sum);
void cudaLayerNormGrad(const Instruction&, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                       const at::Tensor& dy, at::Tensor stats, at::Tensor& dx, at::Tensor& dscale, at::Tensor& dshift,
                       at::Tensor residual, at::Tensor narrowed, at::Tensor dsum);

bool cudaCacheWrite(at::Tensor& cache, const at::Tensor& rows, const at::Tensor& position);
bool cudaCachedAttentionFits(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values);
void cudaCachedAttention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, const at::Tensor& position,
                         double scale, at::Tensor& y);

namespace {

using at::Tensor;
using Ints = std::vector<int64_t>;

struct ConvPlan {
  Ints strides, pads, dilations;  // (t, h, w); zeros on both sides
  int64_t groups;
};

// ints: strides, zeros on either side and dilations of (t, h, w), then groups. One-sided zeros are laid around
// the input by an instruction of their own.
ConvPlan convPlan(const Instruction& i) {
  const auto at = [&](int k) { return Ints(i.ints.begin() + 3 * k, i.ints.begin() + 3 * k + 3); };
  return {at(0), at(1), at(2), i.ints[9]};
}

// Frames as images: a kernel over one frame is a 2D convolution over more pictures.
bool flat(at::IntArrayRef kernel, const ConvPlan& p) {
  return kernel[0] == 1 && p.strides[0] == 1 && p.pads[0] == 0;
}

bool pointwise(at::IntArrayRef kernel, const ConvPlan& p) {
  return p.groups == 1 && flat(kernel, p) && kernel[1] == 1 && kernel[2] == 1 && p.strides[1] == 1 && p.strides[2] == 1 &&
         p.pads[1] == 0 && p.pads[2] == 0;
}

// [B, T, H, W, C] to [B, C, T, H, W], or [B·T, C, H, W]: a view in channels-last format.
Tensor toTorch(const Tensor& x, bool two) {
  Tensor y = x.contiguous();
  if (two) return y.reshape({y.size(0) * y.size(1), y.size(2), y.size(3), y.size(4)}).permute({0, 3, 1, 2});
  return y.permute({0, 4, 1, 2, 3});
}

Tensor fromTorch(const Tensor& y, bool two, at::IntArrayRef shape) {
  if (two) return y.permute({0, 2, 3, 1}).contiguous().view(shape);
  return y.permute({0, 2, 3, 4, 1}).contiguous();
}

// [kt, kh, kw, Ci, Co] to [Co, Ci, kt, kh, kw] or [Co, Ci, kh, kw]; on a GPU with Ci last in memory.
Tensor filterToTorch(const Tensor& w, bool two) {
  if (!w.is_cuda()) return (two ? w.select(0, 0).permute({3, 2, 0, 1}) : w.permute({4, 3, 0, 1, 2})).contiguous();
  if (two) return w.select(0, 0).permute({3, 0, 1, 2}).contiguous().permute({0, 3, 1, 2});
  return w.permute({4, 0, 1, 2, 3}).contiguous().permute({0, 4, 1, 2, 3});
}

Ints last(const Ints& v, bool two) { return two ? Ints(v.begin() + 1, v.end()) : v; }
Ints zeros(bool two) { return Ints(two ? 2 : 3, 0); }

void conv(const Instruction& i, Slots& s, Machine&) {
  const Tensor &x = arg(i, s, 0), &w = arg(i, s, 1);
  const ConvPlan p = convPlan(i);
  if (i.specs[0].numel() == 0 || x.numel() == 0) {
    put(i, s, 0, at::zeros(i.specs[0].shape, x.options()));
    return;
  }
  if (pointwise(w.sizes(), p)) {
    put(i, s, 0, at::mm(x.reshape({-1, x.size(4)}), w.reshape({w.size(3), w.size(4)})).view(i.specs[0].shape));
    return;
  }
  const bool two = flat(w.sizes(), p);
  Tensor y = at::convolution(toTorch(x, two), filterToTorch(w, two), {}, last(p.strides, two), last(p.pads, two),
                             last(p.dilations, two), false, zeros(two), p.groups);
  put(i, s, 0, fromTorch(y, two, i.specs[0].shape));
}

void convInputGrad(const Instruction& i, Slots& s, Machine&) {
  const Tensor &dy = arg(i, s, 0), &w = arg(i, s, 1);
  const ConvPlan p = convPlan(i);
  const auto& shape = i.specs[0].shape;
  if (dy.numel() == 0 || i.specs[0].numel() == 0) {
    put(i, s, 0, at::zeros(shape, dy.options()));
    return;
  }
  if (pointwise(w.sizes(), p)) {
    Tensor dx = at::mm(dy.reshape({-1, dy.size(4)}), w.reshape({w.size(3), w.size(4)}).t());
    put(i, s, 0, dx.view(shape));
    return;
  }
  const bool two = flat(w.sizes(), p);
  Tensor like = toTorch(at::empty(shape, dy.options()), two);  // only its shape and format are looked at
  auto grads = at::convolution_backward(toTorch(dy, two), like, filterToTorch(w, two), at::OptionalIntArrayRef(),
                                        last(p.strides, two), last(p.pads, two), last(p.dilations, two), false, zeros(two), p.groups,
                                        {true, false, false});
  put(i, s, 0, fromTorch(std::get<0>(grads), two, shape));
}

void convFilterGrad(const Instruction& i, Slots& s, Machine&) {
  const Tensor &x = arg(i, s, 0), &dy = arg(i, s, 1);
  const ConvPlan p = convPlan(i);
  const auto& shape = i.specs[0].shape;  // [kt, kh, kw, Ci, Co]
  if (dy.numel() == 0 || x.numel() == 0) {
    put(i, s, 0, at::zeros(shape, dy.options()));
    return;
  }
  if (pointwise(shape, p)) {
    put(i, s, 0, at::mm(x.reshape({-1, x.size(4)}).t(), dy.reshape({-1, dy.size(4)})).view(shape));
    return;
  }
  const bool two = flat(shape, p);
  Tensor like = filterToTorch(at::empty(shape, dy.options()), two);
  auto grads = at::convolution_backward(toTorch(dy, two), toTorch(x, two), like, at::OptionalIntArrayRef(),
                                        last(p.strides, two), last(p.pads, two), last(p.dilations, two), false, zeros(two), p.groups,
                                        {false, true, false});
  Tensor dw = std::get<1>(grads);
  put(i, s, 0, two ? dw.permute({2, 3, 1, 0}).unsqueeze(0) : dw.permute({2, 3, 4, 1, 0}));
}

// ints: size, stride, before, after for each of two or three axes.
struct Pool {
  Ints sizes, strides;
  Tensor padded;  // [B, C, ...], minus infinity around
  Ints before, inside;
};

Pool poolOf(const Instruction& i, const Tensor& x) {
  const int64_t axes = static_cast<int64_t>(i.ints.size()) / 4;
  Pool p;
  Tensor y = wide(x);
  if (!y.is_floating_point()) y = y.to(at::kFloat);
  Ints perm{0, axes + 1};
  Ints pads;
  for (int64_t a = 0; a < axes; a++) {
    p.sizes.push_back(i.ints[4 * a]);
    p.strides.push_back(i.ints[4 * a + 1]);
    p.before.push_back(i.ints[4 * a + 2]);
    p.inside.push_back(x.size(a + 1));
    perm.push_back(a + 1);
  }
  for (int64_t a = axes - 1; a >= 0; a--) {
    pads.push_back(i.ints[4 * a + 2]);
    pads.push_back(i.ints[4 * a + 3]);
  }
  p.padded = at::constant_pad_nd(y.permute(perm), pads, -INFINITY).contiguous();
  return p;
}

void maxPool(const Instruction& i, Slots& s, Machine&) {
  const Pool p = poolOf(i, arg(i, s, 0));
  if (p.sizes.size() == 2) {
    put(i, s, 0, at::max_pool2d(p.padded, p.sizes, p.strides).permute({0, 2, 3, 1}).contiguous());
  } else {
    put(i, s, 0, at::max_pool3d(p.padded, p.sizes, p.strides).permute({0, 2, 3, 4, 1}).contiguous());
  }
}

void maxPoolGrad(const Instruction& i, Slots& s, Machine&) {
  const Pool p = poolOf(i, arg(i, s, 1));
  Tensor dy = wide(arg(i, s, 0));
  Tensor dx;
  if (p.sizes.size() == 2) {
    Tensor g = dy.permute({0, 3, 1, 2}).contiguous();
    auto [y, places] = at::max_pool2d_with_indices(p.padded, p.sizes, p.strides);
    dx = at::max_pool2d_with_indices_backward(g, p.padded, p.sizes, p.strides, {0, 0}, {1, 1}, false, places);
    dx = dx.permute({0, 2, 3, 1});
  } else {
    Tensor g = dy.permute({0, 4, 1, 2, 3}).contiguous();
    auto [y, places] = at::max_pool3d_with_indices(p.padded, p.sizes, p.strides);
    dx = at::max_pool3d_with_indices_backward(g, p.padded, p.sizes, p.strides, {0, 0, 0}, {1, 1, 1}, false, places);
    dx = dx.permute({0, 2, 3, 4, 1});
  }
  for (size_t a = 0; a < p.inside.size(); a++) dx = dx.narrow(static_cast<int64_t>(a) + 1, p.before[a], p.inside[a]);
  put(i, s, 0, dx.contiguous());
}

// --- norms; statistics always in float32 ---

struct Grouped {
  Tensor x;  // [B, C, P]
  int64_t b, c, p, groups;
};

Grouped grouped(const Tensor& x, int64_t groups) {
  const int64_t b = x.size(0), c = x.size(-1), p = b * c == 0 ? 0 : x.numel() / (b * c);
  return {wide(x).reshape({b, p, c}).permute({0, 2, 1}).contiguous(), b, c, p, groups};
}

// A gradient's outputs as empty tensors: that of x as the plan stores it, those of the parameters in float32.
std::vector<Tensor> gradients(const Instruction& i, const Tensor& like) {
  std::vector<Tensor> made;
  for (const Spec& spec : i.specs) made.push_back(at::empty(spec.shape, like.options().dtype(spec.type)));
  return made;
}

// floats: epsilon; ints: groups, whether SiLU follows, and see norms.cc. A second output keeps the statistics.
void groupNorm(const Instruction& i, Slots& s, Machine& m) {
  if (m.cuda() && cudaGroupNormFits(arg(i, s, 0), i.ints[0])) {
    Tensor y = at::empty(i.specs[0].shape, arg(i, s, 0).options().dtype(i.specs[0].type));
    if (i.ints.size() >= 5 && i.ints[4] > 0) y.narrow(1, 0, i.ints[4]).zero_();
    Tensor stats = cudaGroupNorm(i, arg(i, s, 0), arg(i, s, 1), arg(i, s, 2), y);
    s[i.out[0]] = y;
    if (i.out.size() > 1) s[i.out[1]] = stats;
    return;
  }
  const Grouped g = grouped(arg(i, s, 0), i.ints[0]);
  if (g.x.numel() == 0) {
    put(i, s, 0, at::zeros_like(arg(i, s, 0)));
    return;
  }
  // The kernel takes memory as it lies: a repeated value must be laid out.
  Tensor y = std::get<0>(at::native_group_norm(g.x, arg(i, s, 1).contiguous(), arg(i, s, 2).contiguous(), g.b, g.c, g.p, g.groups,
                                               i.floats[0]));
  if (i.ints[1] != 0) y = at::silu(y);
  put(i, s, 0, y.permute({0, 2, 1}).reshape(i.specs[0].shape));
}

void groupNormGrad(const Instruction& i, Slots& s, Machine& m) {
  const Tensor& x = arg(i, s, 0);
  const Tensor &scale = arg(i, s, 1), &shift = arg(i, s, 2);
  if (m.cuda() && cudaGroupNormFits(x, i.ints[0])) {
    auto made = gradients(i, x);
    cudaGroupNormGrad(i, x, scale, shift, arg(i, s, 3), i.in.size() > 4 ? arg(i, s, 4) : Tensor(), made[0], made[1], made[2]);
    for (size_t k = 0; k < 3; k++) s[i.out[k]] = made[k];
    return;
  }
  const Grouped g = grouped(x, i.ints[0]);
  if (g.x.numel() == 0) {
    put(i, s, 0, at::zeros_like(x));
    put(i, s, 1, at::zeros_like(scale));
    put(i, s, 2, at::zeros_like(shift));
    return;
  }
  Tensor dy = grouped(arg(i, s, 3), i.ints[0]).x;
  Tensor weight = scale.contiguous();
  auto [y, mean, rstd] = at::native_group_norm(g.x, weight, shift.contiguous(), g.b, g.c, g.p, g.groups, i.floats[0]);
  if (i.ints[1] != 0) dy = at::silu_backward(dy, y);
  auto [dx, dscale, dshift] =
      at::native_group_norm_backward(dy.contiguous(), g.x, mean, rstd, weight, g.b, g.c, g.p, g.groups, {true, true, true});
  put(i, s, 0, dx.permute({0, 2, 1}).reshape(i.specs[0].shape));
  put(i, s, 1, dscale);
  put(i, s, 2, dshift);
}

// Inputs: x, scale, shift and, with ints[0], what is added to x before. Outputs: y, with ints[0] the sum, and what the
// gradient wants to know (nothing on a processor).
void layerNorm(const Instruction& i, Slots& s, Machine& m) {
  Tensor x = arg(i, s, 0), added = i.in.size() > 3 ? arg(i, s, 3) : Tensor(), sum;
  if (m.cuda() && cudaLayerNormFits(x)) {
    Tensor y = at::empty(i.specs[0].shape, x.options().dtype(i.specs[0].type));
    if (added.defined()) s[i.out[1]] = sum = at::empty(i.specs[1].shape, x.options().dtype(at::kFloat));
    Tensor stats = cudaLayerNorm(i, x, arg(i, s, 1), arg(i, s, 2), y, added, sum);
    s[i.out[0]] = y;
    const size_t last = added.defined() ? 2 : 1;
    if (i.out.size() > last) s[i.out[last]] = stats;
    return;
  }
  x = wide(x).contiguous();
  if (added.defined()) {
    x = x + wide(added).reshape(x.sizes());
    s[i.out[1]] = x.reshape(i.specs[1].shape);
  }
  const Ints shape{x.size(-1)};
  Tensor y = std::get<0>(at::native_layer_norm(x, shape, arg(i, s, 1).contiguous(), arg(i, s, 2).contiguous(), i.floats[0]));
  put(i, s, 0, y.reshape(i.specs[0].shape));
}

// Inputs: x, scale, shift, dy, what the norm has left, and, with ints[0], what is added to dx. Outputs: dx, dscale,
// dshift, with ints[1] dx in bfloat16, with ints[2] the sums of dx over rows.
void layerNormGrad(const Instruction& i, Slots& s, Machine& m) {
  const bool narrowed = i.ints.size() > 1 && i.ints[1] != 0, summed = i.ints.size() > 2 && i.ints[2] != 0;
  const size_t sums = narrowed ? 4 : 3;
  const Tensor residual = i.in.size() > 5 ? arg(i, s, 5) : Tensor();
  if (m.cuda() && cudaLayerNormFits(arg(i, s, 0))) {
    auto made = gradients(i, arg(i, s, 0));
    cudaLayerNormGrad(i, arg(i, s, 0), arg(i, s, 1), arg(i, s, 2), arg(i, s, 3), i.in.size() > 4 ? arg(i, s, 4) : Tensor(),
                      made[0], made[1], made[2], residual, narrowed ? made[3] : Tensor(), summed ? made[sums] : Tensor());
    for (size_t k = 0; k < made.size(); k++) s[i.out[k]] = made[k];
    return;
  }
  Tensor x = wide(arg(i, s, 0)).contiguous(), dy = wide(arg(i, s, 3)).reshape(x.sizes()).contiguous();
  const Ints shape{x.size(-1)};
  Tensor scale = arg(i, s, 1).contiguous(), shift = arg(i, s, 2).contiguous();
  auto [y, mean, rstd] = at::native_layer_norm(x, shape, scale, shift, i.floats[0]);
  auto [dx, dscale, dshift] =
      at::native_layer_norm_backward(dy, x, shape, mean, rstd, scale, shift, {true, true, true});
  if (residual.defined()) dx = dx + residual.reshape(dx.sizes());
  put(i, s, 0, dx.reshape(i.specs[0].shape));
  put(i, s, 1, dscale);
  put(i, s, 2, dshift);
  if (narrowed) put(i, s, 3, dx.reshape(i.specs[3].shape));
  if (summed) put(i, s, sums, dx.reshape({-1, dx.size(-1)}).sum(0));
}

// --- attention: query [B, h, N, d], key and value [B, h, M, d] ---

enum class Way { math, cpu, flash, cudnn, efficient };

// Query i sees keys up to i + M - N: the library's kernels count from the other corner unless N = M.
Way wayOf(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, bool cuda, bool deterministic) {
  const bool square = q.size(2) == k.size(2);
  const bool plain = q.numel() > 0 && k.numel() > 0 && (!causal || square) && q.size(3) == v.size(3);
  if (!plain || deterministic) return Way::math;
  if (!cuda) return q.scalar_type() == at::kFloat ? Way::cpu : Way::math;
  const int64_t d = q.size(3);
  if (q.scalar_type() == at::kBFloat16 && d % 8 == 0 && d <= 128 && q.size(2) >= 64) return Way::cudnn;
  if (q.scalar_type() == at::kBFloat16 && d % 8 == 0 && d <= 256) return Way::flash;
  if (q.scalar_type() == at::kFloat && d % 4 == 0) return Way::efficient;
  return Way::math;
}

// Whether cuDNN's attention is usable here; the first refusal turns it off for good.
bool cudnnWorks = true;

Tensor masked(Tensor scores, bool causal) {
  if (!causal) return scores;
  const int64_t n = scores.size(-2), m = scores.size(-1);
  Tensor hidden = at::ones({n, m}, scores.options().dtype(at::kBool)).triu(m - n + 1);
  return scores.masked_fill(hidden, -INFINITY);
}

Tensor probabilities(const Tensor& q, const Tensor& k, bool causal, double scale) {
  return at::softmax(masked(at::matmul(q.to(at::kFloat) * scale, k.to(at::kFloat).transpose(-1, -2)), causal), -1);
}

// What a forward pass leaves for its backward pass.
struct Kept {
  Way way = Way::math;
  Tensor out, lse, seed, offset;
};

Kept attend(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, double scale, Machine& m, bool train) {
  Kept kept;
  kept.way = wayOf(q, k, v, causal, m.cuda(), m.engine.deterministic);
  if (kept.way == Way::cudnn && !cudnnWorks) kept.way = Way::flash;
  if (kept.way == Way::cudnn) {
    try {
      auto r = at::_scaled_dot_product_cudnn_attention(q, k, v, {}, train, 0.0, causal, false, scale);
      kept.out = std::get<0>(r);
      kept.lse = std::get<1>(r);
      kept.seed = std::get<6>(r);
      kept.offset = std::get<7>(r);
      return kept;
    } catch (const c10::Error& error) {
      if (std::getenv("TESSERA_PROFILE")) std::fprintf(stderr, "cuDNN attention: %s\n", error.what_without_backtrace());
      forgetErrors();
      cudnnWorks = false;
      kept.way = Way::flash;
    }
  }
  switch (kept.way) {
    case Way::flash: {
      auto r = at::_scaled_dot_product_flash_attention(q, k, v, 0.0, causal, false, scale);
      kept.out = std::get<0>(r);
      kept.lse = std::get<1>(r);
      kept.seed = std::get<6>(r);
      kept.offset = std::get<7>(r);
      break;
    }
    case Way::efficient: {
      auto r = at::_scaled_dot_product_efficient_attention(q, k, v, {}, train, 0.0, causal, scale);
      kept.out = std::get<0>(r);
      kept.lse = std::get<1>(r);
      kept.seed = std::get<2>(r);
      kept.offset = std::get<3>(r);
      break;
    }
    case Way::cpu: {
      auto r = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, {}, scale);
      kept.out = std::get<0>(r);
      kept.lse = std::get<1>(r);
      break;
    }
    default:
      kept.out = at::matmul(probabilities(q, k, causal, scale), v.to(at::kFloat));
  }
  return kept;
}

// The forward and the backward instruction of one attention share what the first leaves: the plan gives
// both the same number (ints[1]), and the forward one writes its log-sum-exp and seeds to slots.
// ints: causal, outputs wanted. Outputs: out, lse, seed, offset.
void attention(const Instruction& i, Slots& s, Machine& m) {
  const Tensor &q = arg(i, s, 0), &k = arg(i, s, 1), &v = arg(i, s, 2);
  const bool train = i.out.size() > 1;
  Kept kept = attend(q, k, v, i.ints[0] != 0, i.floats[0], m, train);
  put(i, s, 0, kept.out);
  if (train) {
    s[i.out[1]] = kept.lse;
    s[i.out[2]] = kept.seed;
    s[i.out[3]] = kept.offset;
  }
}

// Inputs: q, k, v, dy and, where the forward pass left them, out, lse, seed, offset.
void attentionGrad(const Instruction& i, Slots& s, Machine& m) {
  const Tensor &q = arg(i, s, 0), &k = arg(i, s, 1), &v = arg(i, s, 2);
  Tensor dy = arg(i, s, 3).to(q.scalar_type());
  const bool causal = i.ints[0] != 0;
  const double scale = i.floats[0];
  Kept kept;
  if (i.in.size() > 4) {
    kept.way = wayOf(q, k, v, causal, m.cuda(), m.engine.deterministic);
    if (kept.way == Way::cudnn && !cudnnWorks) kept.way = Way::flash;
    kept.out = arg(i, s, 4).to(q.scalar_type());
    kept.lse = s[i.in[5]];
    kept.seed = s[i.in[6]];
    kept.offset = s[i.in[7]];
  } else {
    kept = attend(q, k, v, causal, scale, m, true);
  }
  Tensor dq, dk, dv;
  switch (kept.way) {
    case Way::cudnn: {
      std::tie(dq, dk, dv) = at::_scaled_dot_product_cudnn_attention_backward(
          dy, q, k, v, kept.out, kept.lse, kept.seed, kept.offset, {}, {}, {}, q.size(2), k.size(2), 0.0, causal, scale);
      break;
    }
    case Way::flash: {
      std::tie(dq, dk, dv) = at::_scaled_dot_product_flash_attention_backward(
          dy, q, k, v, kept.out, kept.lse, {}, {}, q.size(2), k.size(2), 0.0, causal, kept.seed, kept.offset, scale);
      break;
    }
    case Way::efficient: {
      auto r = at::_scaled_dot_product_efficient_attention_backward(
          dy, q, k, v, {}, kept.out, kept.lse, kept.seed, kept.offset, 0.0, {true, true, true, false}, causal, scale);
      dq = std::get<0>(r);
      dk = std::get<1>(r);
      dv = std::get<2>(r);
      break;
    }
    case Way::cpu: {
      std::tie(dq, dk, dv) = at::_scaled_dot_product_flash_attention_for_cpu_backward(dy, q, k, v, kept.out, kept.lse, 0.0,
                                                                                      causal, {}, scale);
      break;
    }
    default: {
      Tensor p = probabilities(q, k, causal, scale);
      Tensor g = dy.to(at::kFloat), wideV = v.to(at::kFloat);
      dv = at::matmul(p.transpose(-1, -2), g);
      Tensor dp = at::matmul(g, wideV.transpose(-1, -2));
      Tensor ds = p * (dp - (dp * p).sum(-1, true)) * scale;
      dq = at::matmul(ds, k.to(at::kFloat));
      dk = at::matmul(ds.transpose(-1, -2), q.to(at::kFloat));
    }
  }
  put(i, s, 0, dq);
  put(i, s, 1, dk);
  put(i, s, 2, dv);
}

// --- decoding token after token ---

Tensor placesOf(const Tensor& position, int64_t count) {
  return position.to(at::kLong).reshape({1}) + at::arange(count, position.options().dtype(at::kLong));
}

// ints: whether the cache [B, h, N, d] is a state of its own that may be written in place.
void cacheWrite(const Instruction& i, Slots& s, Machine&) {
  Tensor cache = arg(i, s, 0);
  const Tensor& rows = arg(i, s, 1);
  if (i.ints[0] == 0) cache = cache.clone();
  if (cudaCacheWrite(cache, rows, arg(i, s, 2))) {
    put(i, s, 0, cache);
    return;
  }
  cache.index_copy_(2, placesOf(arg(i, s, 2), rows.size(2)), rows.to(cache.scalar_type()));
  put(i, s, 0, cache);
}

// Query i of [B, h, n, d] sees the places up to position + i of the keys [B, h, N, d].
void cachedAttention(const Instruction& i, Slots& s, Machine& m) {
  const Tensor &keys = arg(i, s, 1), &values = arg(i, s, 2), &position = arg(i, s, 3);
  Tensor q = arg(i, s, 0);
  if (m.cuda() && cudaCachedAttentionFits(q, keys, values)) {
    Tensor y = at::empty(i.specs[0].shape, keys.options().dtype(i.specs[0].type));
    cudaCachedAttention(q, keys, values, position, i.floats[0], y);
    s[i.out[0]] = y;
    return;
  }
  q = q.to(at::kFloat) * i.floats[0];
  Tensor scores = at::matmul(q, keys.to(at::kFloat).transpose(-1, -2));  // [B, h, n, N]
  Tensor hidden = at::arange(keys.size(2), position.options().dtype(at::kLong)) > placesOf(position, q.size(2)).unsqueeze(1);
  Tensor p = at::softmax(scores.masked_fill(hidden, -INFINITY), -1);
  put(i, s, 0, at::matmul(p, values.to(at::kFloat)));
}

}  // namespace

void addNetworks(Registry& r) {
  r["Conv"] = conv;
  r["ConvInputGrad"] = convInputGrad;
  r["ConvFilterGrad"] = convFilterGrad;
  r["MaxPool"] = maxPool;
  r["MaxPoolGrad"] = maxPoolGrad;
  r["GroupNorm"] = groupNorm;
  r["GroupNormGrad"] = groupNormGrad;
  r["LayerNorm"] = layerNorm;
  r["LayerNormGrad"] = layerNormGrad;
  r["Attention"] = attention;
  r["AttentionGrad"] = attentionGrad;
  r["CacheWrite"] = cacheWrite;
  r["CachedAttention"] = cachedAttention;
}

}  // namespace tessera
