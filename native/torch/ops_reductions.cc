// Reductions, products and what sorts or accumulates along an axis.
#include "plan.h"

namespace tessera {
namespace {

using at::Tensor;

// ints: keepDims, then the axes.
std::vector<int64_t> axesOf(const Instruction& i) { return {i.ints.begin() + 1, i.ints.end()}; }

void sum(const Instruction& i, Slots& s, Machine&) {
  const Tensor& x = arg(i, s, 0);
  const auto axes = axesOf(i);
  const auto type = i.specs[0].type == at::kBool ? at::kInt : i.specs[0].type;
  // ATen takes an empty list of axes for all of them.
  put(i, s, 0, axes.empty() ? x.to(type) : at::sum(x, axes, i.ints[0] != 0, type));
}

void mean(const Instruction& i, Slots& s, Machine&) {
  const auto axes = axesOf(i);
  const Tensor& x = arg(i, s, 0);
  put(i, s, 0, axes.empty() ? x : at::mean(x, axes, i.ints[0] != 0, i.specs[0].type));
}

template <bool largest>
void extreme(const Instruction& i, Slots& s, Machine&) {
  const auto axes = axesOf(i);
  const Tensor& x = arg(i, s, 0);
  if (axes.empty()) {
    put(i, s, 0, x);
  } else if (x.numel() == 0 && i.specs[0].numel() > 0) {
    const double edge = largest ? -INFINITY : INFINITY;
    put(i, s, 0, at::full(i.specs[0].shape, edge, x.options()));
  } else {
    put(i, s, 0, largest ? at::amax(x, axes, i.ints[0] != 0) : at::amin(x, axes, i.ints[0] != 0));
  }
}

template <typename F>
Tensor overAxes(Tensor x, std::vector<int64_t> axes, bool keep, F f) {
  std::sort(axes.rbegin(), axes.rend());
  for (int64_t a : axes) x = f(x, a, keep);
  return x;
}

void prod(const Instruction& i, Slots& s, Machine&) {
  const auto type = i.specs[0].type;
  put(i, s, 0, overAxes(arg(i, s, 0), axesOf(i), i.ints[0] != 0,
                        [&](const Tensor& x, int64_t a, bool keep) { return at::prod(x, a, keep, type); }));
}

void all(const Instruction& i, Slots& s, Machine&) {
  put(i, s, 0, overAxes(arg(i, s, 0), axesOf(i), i.ints[0] != 0,
                        [](const Tensor& x, int64_t a, bool keep) { return at::all(x, a, keep); }));
}

void any(const Instruction& i, Slots& s, Machine&) {
  put(i, s, 0, overAxes(arg(i, s, 0), axesOf(i), i.ints[0] != 0,
                        [](const Tensor& x, int64_t a, bool keep) { return at::any(x, a, keep); }));
}

// The first of equal values, also where ATen would take another.
template <bool largest>
void argument(const Instruction& i, Slots& s, Machine&) {
  Tensor x = arg(i, s, 0);
  if (x.scalar_type() == at::kBool) x = x.to(at::kInt);
  put(i, s, 0, largest ? at::argmax(x, i.ints[0]) : at::argmin(x, i.ints[0]));
}

void cumsum(const Instruction& i, Slots& s, Machine&) {
  const int64_t axis = i.ints[0];
  const bool exclusive = i.ints[1] != 0, reverse = i.ints[2] != 0;
  Tensor x = wide(arg(i, s, 0));
  if (reverse) x = x.flip({axis});
  Tensor y = at::cumsum(x, axis, x.scalar_type() == at::kBool ? at::kInt : x.scalar_type());
  if (exclusive && y.size(axis) > 0) {
    Tensor moved = at::zeros_like(y);
    moved.narrow(axis, 1, y.size(axis) - 1).copy_(y.narrow(axis, 0, y.size(axis) - 1));
    y = moved;
  }
  put(i, s, 0, reverse ? y.flip({axis}) : y);
}

// A stable descending sort: of equal values the earlier comes first, as TensorFlow has it.
void topK(const Instruction& i, Slots& s, Machine&) {
  const Tensor& x = arg(i, s, 0);
  auto [values, places] = at::sort(x, /*stable=*/true, -1, /*descending=*/true);
  put(i, s, 0, values.narrow(-1, 0, i.ints[0]).contiguous());
  put(i, s, 1, places.narrow(-1, 0, i.ints[0]).contiguous());
}

void softmax(const Instruction& i, Slots& s, Machine&) { put(i, s, 0, at::softmax(wide(arg(i, s, 0)), -1)); }

void matMul(const Instruction& i, Slots& s, Machine&) {
  Tensor a = arg(i, s, 0), b = arg(i, s, 1);
  if (i.ints[0] != 0) a = a.transpose(-1, -2);
  if (i.ints[1] != 0) b = b.transpose(-1, -2);
  put(i, s, 0, at::matmul(a, b));
}

// [M, K] times [K, N] plus [N], in one call of the library.
void linear(const Instruction& i, Slots& s, Machine&) {
  Tensor a = arg(i, s, 0), b = arg(i, s, 1);
  if (i.ints[0] != 0) a = a.transpose(-1, -2);
  if (i.ints[1] != 0) b = b.transpose(-1, -2);
  put(i, s, 0, at::addmm(arg(i, s, 2).to(a.scalar_type()), a, b));
}

void einsum(const Instruction& i, Slots& s, Machine&) {
  std::vector<Tensor> parts;
  for (size_t k = 0; k < i.in.size(); k++) parts.push_back(arg(i, s, k).to(at::kFloat));
  put(i, s, 0, at::einsum(i.text, parts));
}

// x along an axis times a [outputs × inputs] matrix.
void axisProduct(const Instruction& i, Slots& s, Machine&) {
  Tensor x = wide(arg(i, s, 0)).movedim(i.ints[0], -1);
  put(i, s, 0, at::matmul(x, arg(i, s, 1).t()).movedim(-1, i.ints[0]));
}

void squareSum(const Instruction& i, Slots& s, Machine&) {
  Tensor x = arg(i, s, 0).reshape({-1});
  put(i, s, 0, at::dot(x, x).reshape(i.specs[0].shape));
}

// -(1 - s) log p[label] - s/V Σ log p
void crossEntropy(const Instruction& i, Slots& s, Machine&) {
  const Tensor &logits = arg(i, s, 0), &labels = arg(i, s, 1);
  const double smoothing = i.floats[0];
  Tensor logs = at::log_softmax(logits, -1, at::kFloat);
  Tensor loss = logs.gather(1, labels.to(at::kLong).unsqueeze(1)).squeeze(1) * (smoothing - 1);
  if (smoothing > 0) loss = loss - logs.sum(1) * (smoothing / static_cast<double>(logits.size(1)));
  put(i, s, 0, loss);
}

void crossEntropyGrad(const Instruction& i, Slots& s, Machine&) {
  const Tensor &logits = arg(i, s, 0), &labels = arg(i, s, 1), &dy = arg(i, s, 2);
  const double smoothing = i.floats[0];
  Tensor p = at::softmax(logits, -1, at::kFloat);
  if (smoothing > 0) p = p - smoothing / static_cast<double>(logits.size(1));
  Tensor hit = at::full({labels.size(0), 1}, smoothing - 1, p.options());
  p = p.scatter_add(1, labels.to(at::kLong).unsqueeze(1), hit);
  put(i, s, 0, p * dy.unsqueeze(1));
}

}  // namespace

void addReductions(Registry& r) {
  r["Sum"] = sum;
  r["Mean"] = mean;
  r["Max"] = extreme<true>;
  r["Min"] = extreme<false>;
  r["Prod"] = prod;
  r["All"] = all;
  r["Any"] = any;
  r["ArgMax"] = argument<true>;
  r["ArgMin"] = argument<false>;
  r["Cumsum"] = cumsum;
  r["TopK"] = topK;
  r["Softmax"] = softmax;
  r["BatchMatMul"] = matMul;
  r["Linear"] = linear;
  r["Einsum"] = einsum;
  r["AxisProduct"] = axisProduct;
  r["SquareSum"] = squareSum;
  r["SoftmaxCrossEntropy"] = crossEntropy;
  r["SoftmaxCrossEntropyGrad"] = crossEntropyGrad;
}

}  // namespace tessera
