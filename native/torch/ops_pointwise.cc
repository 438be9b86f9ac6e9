// Element-wise kernels as ATen calls, with TensorFlow.js's meaning of types: what ATen would compute in
// another type is converted first.
#include "plan.h"

namespace tessera {
namespace {

using at::Tensor;
using Unary = Tensor (*)(const Tensor&);
using Binary = Tensor (*)(const Tensor&, const Tensor&);

template <Unary f>
void unary(const Instruction& i, Slots& s, Machine&) {
  put(i, s, 0, f(arg(i, s, 0)));
}

// Operands in the type of the result: TensorFlow.js adds truth values as numbers.
Tensor as(const Instruction& i, Slots& s, size_t k) {
  const Tensor& t = arg(i, s, k);
  const auto type = i.specs[0].type;
  if (t.scalar_type() == at::kBool) return t.to(type);
  if (at::isFloatingType(type) && !t.is_floating_point()) return t.to(type);
  return t;
}

template <Binary f>
void binary(const Instruction& i, Slots& s, Machine&) {
  put(i, s, 0, f(as(i, s, 0), as(i, s, 1)));
}

template <Binary f>
void compare(const Instruction& i, Slots& s, Machine&) {
  put(i, s, 0, f(arg(i, s, 0), arg(i, s, 1)));
}

Tensor square(const Tensor& x) { return x * x; }
Tensor rsqrt(const Tensor& x) { return at::rsqrt(x); }
// TensorFlow rounds halves to even, as ATen does.
Tensor round_(const Tensor& x) { return x.is_floating_point() ? at::round(x) : x; }
Tensor floor_(const Tensor& x) { return x.is_floating_point() ? at::floor(x) : x; }
Tensor ceil_(const Tensor& x) { return x.is_floating_point() ? at::ceil(x) : x; }
// The sign of NaN is 0 in TensorFlow.js.
Tensor sign_(const Tensor& x) { return at::sign(x); }
Tensor relu6(const Tensor& x) { return at::clamp(x, 0, 6); }
Tensor softplus(const Tensor& x) { return at::softplus(x, 1, 30); }
Tensor elu(const Tensor& x) { return at::elu(x); }
Tensor selu(const Tensor& x) { return at::selu(x); }
Tensor gelu(const Tensor& x) { return at::gelu(x); }
Tensor silu(const Tensor& x) { return at::silu(x); }
Tensor isfinite_(const Tensor& x) { return at::isfinite(x); }
Tensor add(const Tensor& a, const Tensor& b) { return at::add(a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return at::sub(a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return at::mul(a, b); }
Tensor div(const Tensor& a, const Tensor& b) {
  return a.is_floating_point() || b.is_floating_point() ? at::div(a, b) : at::div(a, b, "trunc");
}
Tensor pow_(const Tensor& a, const Tensor& b) { return at::pow(a, b); }
Tensor maximum(const Tensor& a, const Tensor& b) { return at::maximum(a, b); }
Tensor minimum(const Tensor& a, const Tensor& b) { return at::minimum(a, b); }
Tensor squaredDifference(const Tensor& a, const Tensor& b) {
  Tensor d = a - b;
  return d * d;
}
// The remainder has the divisor's sign.
Tensor mod(const Tensor& a, const Tensor& b) {
  return a.is_floating_point() ? a - at::floor(a / b) * b : at::remainder(a, b);
}
Tensor floorDiv(const Tensor& a, const Tensor& b) {
  return a.is_floating_point() || b.is_floating_point() ? at::floor(a / b)
                                                        : at::floor(a.to(at::kDouble) / b.to(at::kDouble));
}
Tensor eq(const Tensor& a, const Tensor& b) { return at::eq(a, b); }
Tensor ne(const Tensor& a, const Tensor& b) { return at::ne(a, b); }
Tensor lt(const Tensor& a, const Tensor& b) { return at::lt(a, b); }
Tensor le(const Tensor& a, const Tensor& b) { return at::le(a, b); }
Tensor gt(const Tensor& a, const Tensor& b) { return at::gt(a, b); }
Tensor ge(const Tensor& a, const Tensor& b) { return at::ge(a, b); }
Tensor land(const Tensor& a, const Tensor& b) { return at::logical_and(a, b); }
Tensor lor(const Tensor& a, const Tensor& b) { return at::logical_or(a, b); }
Tensor eluGrad(const Tensor& dy, const Tensor& y) { return dy * (at::clamp_max(y, 0) + 1); }
Tensor siluGrad(const Tensor& x, const Tensor& dy) { return at::silu_backward(dy, x.to(dy.scalar_type())); }
Tensor geluGrad(const Tensor& x, const Tensor& dy) { return at::gelu_backward(dy, x.to(dy.scalar_type())); }
Tensor prelu(const Tensor& x, const Tensor& alpha) { return at::where(x < 0, x * alpha, x); }

void leakyRelu(const Instruction& i, Slots& s, Machine&) {
  put(i, s, 0, at::leaky_relu(arg(i, s, 0), i.floats[0]));
}

void clip(const Instruction& i, Slots& s, Machine&) {
  put(i, s, 0, at::clamp(arg(i, s, 0), at::Scalar(i.floats[0]), at::Scalar(i.floats[1])));
}

// 1 where x > 0, alpha elsewhere.
void step(const Instruction& i, Slots& s, Machine&) {
  const Tensor& x = arg(i, s, 0);
  Tensor one = at::ones({}, x.options()), alpha = at::full({}, i.floats[0], x.options());
  put(i, s, 0, at::where(x > 0, one, alpha));
}

void select(const Instruction& i, Slots& s, Machine&) {
  const auto type = i.specs[0].type;
  Tensor c = arg(i, s, 0), t = arg(i, s, 1), e = arg(i, s, 2);
  if (c.scalar_type() != at::kBool) c = c != 0;
  put(i, s, 0, at::where(c, t.to(type), e.to(type)).expand(i.specs[0].shape));
}

// Numbers to integers are cut towards zero; anything but zero is true.
void cast(const Instruction& i, Slots& s, Machine&) {
  const Tensor& x = arg(i, s, 0);
  put(i, s, 0, i.specs[0].type == at::kBool ? x != 0 : x.to(i.specs[0].type));
}

}  // namespace

void addPointwise(Registry& r) {
  r["Abs"] = unary<at::abs>;
  r["Neg"] = unary<at::neg>;
  r["Square"] = unary<square>;
  r["Sign"] = unary<sign_>;
  r["Floor"] = unary<floor_>;
  r["Ceil"] = unary<ceil_>;
  r["Round"] = unary<round_>;
  r["Relu"] = unary<at::relu>;
  r["Relu6"] = unary<relu6>;
  r["Exp"] = unary<at::exp>;
  r["Expm1"] = unary<at::expm1>;
  r["Log"] = unary<at::log>;
  r["Log1p"] = unary<at::log1p>;
  r["Sqrt"] = unary<at::sqrt>;
  r["Rsqrt"] = unary<rsqrt>;
  r["Reciprocal"] = unary<at::reciprocal>;
  r["Sigmoid"] = unary<at::sigmoid>;
  r["Softplus"] = unary<softplus>;
  r["Tanh"] = unary<at::tanh>;
  r["Erf"] = unary<at::erf>;
  r["Sin"] = unary<at::sin>;
  r["Cos"] = unary<at::cos>;
  r["Tan"] = unary<at::tan>;
  r["Asin"] = unary<at::asin>;
  r["Acos"] = unary<at::acos>;
  r["Atan"] = unary<at::atan>;
  r["Sinh"] = unary<at::sinh>;
  r["Cosh"] = unary<at::cosh>;
  r["Elu"] = unary<elu>;
  r["Selu"] = unary<selu>;
  r["Silu"] = unary<silu>;
  r["Gelu"] = unary<gelu>;
  r["LeakyRelu"] = leakyRelu;
  r["Step"] = step;
  r["ClipByValue"] = clip;
  r["LogicalNot"] = unary<at::logical_not>;
  r["IsNan"] = unary<at::isnan>;
  r["IsInf"] = unary<at::isinf>;
  r["IsFinite"] = unary<isfinite_>;
  r["Add"] = binary<add>;
  r["Sub"] = binary<sub>;
  r["Multiply"] = binary<mul>;
  r["RealDiv"] = binary<div>;
  r["Pow"] = binary<pow_>;
  r["Maximum"] = binary<maximum>;
  r["Minimum"] = binary<minimum>;
  r["Mod"] = binary<mod>;
  r["SquaredDifference"] = binary<squaredDifference>;
  r["FloorDiv"] = compare<floorDiv>;
  r["Equal"] = compare<eq>;
  r["NotEqual"] = compare<ne>;
  r["Less"] = compare<lt>;
  r["LessEqual"] = compare<le>;
  r["Greater"] = compare<gt>;
  r["GreaterEqual"] = compare<ge>;
  r["LogicalAnd"] = compare<land>;
  r["LogicalOr"] = compare<lor>;
  r["EluGrad"] = compare<eluGrad>;
  r["SiluGrad"] = compare<siluGrad>;
  r["GeluGrad"] = compare<geluGrad>;
  r["Prelu"] = compare<prelu>;
  r["Select"] = select;
  r["Cast"] = cast;
}

}  // namespace tessera
