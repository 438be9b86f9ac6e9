/** See pointwise_ops.h. Names: ".f" works on float32, ".i" on int32, as TensorFlow.js defines them. */
#include "pointwise_ops.h"

#include <algorithm>
#include <cmath>

#include "vmath.h"

namespace tessera::exec {
namespace {

template <typename T>
T scalar_of(const Operand& operand);
template <>
float scalar_of<float>(const Operand& operand) {
  return operand.f;
}
template <>
std::int32_t scalar_of<std::int32_t>(const Operand& operand) {
  return operand.i;
}

template <typename F, typename In, typename Out>
void unary(int n, void* result, const Operand& a, const Operand&, const Operand&) {
  const In* x = static_cast<const In*>(a.block);
  Out* y = static_cast<Out*>(result);
#pragma GCC ivdep
  for (int i = 0; i < n; i++) {
    y[i] = F::of(x[i]);
  }
}

template <typename F, typename In, typename Out>
void binary(int n, void* result, const Operand& a, const Operand& b, const Operand&) {
  const In* x = static_cast<const In*>(a.block);
  const In* z = static_cast<const In*>(b.block);
  Out* y = static_cast<Out*>(result);
  if (b.scalar) {
    const In s = scalar_of<In>(b);
#pragma GCC ivdep
    for (int i = 0; i < n; i++) {
      y[i] = F::of(x[i], s);
    }
  } else if (a.scalar) {
    const In s = scalar_of<In>(a);
#pragma GCC ivdep
    for (int i = 0; i < n; i++) {
      y[i] = F::of(s, z[i]);
    }
  } else {
#pragma GCC ivdep
    for (int i = 0; i < n; i++) {
      y[i] = F::of(x[i], z[i]);
    }
  }
}

template <typename T>
void clip(int n, void* result, const Operand& a, const Operand& b, const Operand& c) {
  const T* x = static_cast<const T*>(a.block);
  const T* low = static_cast<const T*>(b.block);
  const T* high = static_cast<const T*>(c.block);
  T* y = static_cast<T*>(result);
#pragma GCC ivdep
  for (int i = 0; i < n; i++) {
    const T raised = x[i] < low[i] ? low[i] : x[i];
    y[i] = raised > high[i] ? high[i] : raised;
  }
}

void select(int n, void* result, const Operand& a, const Operand& b, const Operand& c) {
  const std::int32_t* condition = static_cast<const std::int32_t*>(a.block);
  const std::int32_t* yes = static_cast<const std::int32_t*>(b.block);
  const std::int32_t* no = static_cast<const std::int32_t*>(c.block);
  std::int32_t* y = static_cast<std::int32_t*>(result);
#pragma GCC ivdep
  for (int i = 0; i < n; i++) {
    y[i] = condition[i] != 0 ? yes[i] : no[i];
  }
}

using I = std::int32_t;

#define FUNCTION1(NAME, EXPRESSION)          \
  struct NAME {                              \
    template <typename T>                    \
    static auto of(T x) {                    \
      return EXPRESSION;                     \
    }                                        \
  };
#define FUNCTION2(NAME, EXPRESSION)          \
  struct NAME {                              \
    template <typename T>                    \
    static auto of(T a, T b) {               \
      return EXPRESSION;                     \
    }                                        \
  };

FUNCTION1(Abs, x < 0 ? -x : x)
struct AbsF {
  static float of(float x) { return std::fabs(x); }
};
FUNCTION1(Neg, static_cast<T>(-x))
FUNCTION1(Square, x* x)
FUNCTION1(Sign, static_cast<T>((x > 0) - (x < 0)))
struct SignF {
  static float of(float x) {
    const float s = x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
    return x != x ? x : s;
  }
};
FUNCTION1(Floor, std::floor(x))
FUNCTION1(Ceil, std::ceil(x))
FUNCTION1(Round, std::nearbyint(x))
FUNCTION1(Relu, x < 0 ? T(0) : x)
FUNCTION1(Exp, v_exp(x))
FUNCTION1(Expm1, v_expm1(x))
FUNCTION1(Log, v_log(x))
FUNCTION1(Log1p, v_log1p(x))
FUNCTION1(Sqrt, std::sqrt(x))
FUNCTION1(Rsqrt, 1.0f / std::sqrt(x))
FUNCTION1(Reciprocal, 1.0f / x)
FUNCTION1(Sigmoid, v_sigmoid(x))
FUNCTION1(Softplus, v_softplus(x))
FUNCTION1(Tanh, v_tanh(x))
FUNCTION1(Erf, v_erf(x))
FUNCTION1(Sin, std::sin(x))
FUNCTION1(Cos, std::cos(x))
FUNCTION1(Tan, std::tan(x))
FUNCTION1(Asin, std::asin(x))
FUNCTION1(Acos, std::acos(x))
FUNCTION1(Atan, std::atan(x))
FUNCTION1(Sinh, std::sinh(x))
FUNCTION1(Cosh, std::cosh(x))
FUNCTION1(Asinh, std::asinh(x))
FUNCTION1(Acosh, std::acosh(x))
FUNCTION1(Atanh, std::atanh(x))
FUNCTION1(Elu, x > 0.0f ? x : v_expm1(x))
FUNCTION1(Selu, 1.0507009873554805f * (x > 0.0f ? x : 1.6732632423543772f * v_expm1(x)))
FUNCTION1(Silu, v_silu(x))
FUNCTION1(Gelu, v_gelu(x))
FUNCTION1(Not, static_cast<I>(x == 0))
FUNCTION1(IsNan, static_cast<I>(x != x))
FUNCTION1(IsInf, static_cast<I>(std::fabs(x) == std::numeric_limits<float>::infinity()))
FUNCTION1(IsFinite, static_cast<I>(std::fabs(x) < std::numeric_limits<float>::infinity()))
FUNCTION1(Truth, static_cast<I>(x != 0))
struct ToInt {
  static I of(float x) {
    // What does not fit has no meaning, but must not trap or differ between machines.
    const float t = x < -2147483648.0f ? -2147483648.0f : x > 2147483520.0f ? 2147483520.0f : x;
    return static_cast<I>(t != t ? 0.0f : t);
  }
};
FUNCTION1(ToFloat, static_cast<float>(x))

FUNCTION2(Add, a + b)
FUNCTION2(Sub, a - b)
FUNCTION2(Mul, a* b)
FUNCTION2(Div, a / b)
// NaN if either is.
FUNCTION2(Max, a != a ? a : a > b || b == b ? (a > b ? a : b) : b)
FUNCTION2(Min, a != a ? a : a < b || b == b ? (a < b ? a : b) : b)
FUNCTION2(SquaredDifference, (a - b) * (a - b))
FUNCTION2(Pow, std::pow(a, b))
FUNCTION2(Atan2, std::atan2(a, b))
FUNCTION2(Equal, static_cast<I>(a == b))
FUNCTION2(NotEqual, static_cast<I>(a != b))
FUNCTION2(Less, static_cast<I>(a < b))
FUNCTION2(LessEqual, static_cast<I>(a <= b))
FUNCTION2(Greater, static_cast<I>(a > b))
FUNCTION2(GreaterEqual, static_cast<I>(a >= b))
FUNCTION2(And, static_cast<I>(a != 0 && b != 0))
FUNCTION2(Or, static_cast<I>(a != 0 || b != 0))
FUNCTION2(Xor, static_cast<I>((a != 0) != (b != 0)))
FUNCTION2(LeakyRelu, a < 0.0f ? a * b : a)   // x, alpha
FUNCTION2(Step, a > 0.0f ? 1.0f : (a != a ? a : b))  // x, alpha
FUNCTION2(EluGrad, b >= 0.0f ? a : a * (b + 1.0f))   // dy, y
FUNCTION2(SiluGrad, b * v_silu_slope(a))     // x, dy
FUNCTION2(GeluGrad, b * v_gelu_slope(a))     // x, dy

/** The remainder has the divisor's sign. */
struct Mod {
  static float of(float a, float b) {
    const float r = std::fmod(a, b);
    return (a < 0) == (b < 0) ? r : std::fmod(r + b, b);
  }
  static I of(I a, I b) {
    if (b == 0) {
      return 0;
    }
    const std::int64_t r = static_cast<std::int64_t>(a) % b;
    return static_cast<I>((a < 0) == (b < 0) ? r : (r + b) % b);
  }
};
struct FloorDiv {
  static I of(float a, float b) { return ToInt::of(std::floor(a / b)); }
  static I of(I a, I b) {
    if (b == 0) {
      return 0;
    }
    const double q = std::floor(static_cast<double>(a) / b);
    return static_cast<I>(static_cast<std::int64_t>(q));
  }
};
struct IntDiv {  // a quotient stored as an integer loses its fraction
  static I of(I a, I b) {
    return b == 0 ? 0 : static_cast<I>(static_cast<std::int64_t>(a) / b);
  }
};
struct IntPow {
  static I of(I a, I b) {
    const double p = std::pow(static_cast<double>(a), static_cast<double>(b));
    return std::fabs(p) < 2147483648.0 ? static_cast<I>(p) : 0;
  }
};
struct WrapAdd {
  static I of(I a, I b) { return static_cast<I>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b)); }
};
struct WrapSub {
  static I of(I a, I b) { return static_cast<I>(static_cast<std::uint32_t>(a) - static_cast<std::uint32_t>(b)); }
};
struct WrapMul {
  static I of(I a, I b) { return static_cast<I>(static_cast<std::uint32_t>(a) * static_cast<std::uint32_t>(b)); }
};
struct WrapSquare {
  static I of(I x) { return WrapMul::of(x, x); }
};
struct WrapSquaredDifference {
  static I of(I a, I b) { return WrapSquare::of(WrapSub::of(a, b)); }
};

#define UNARY_F(NAME, F) {NAME, unary<F, float, float>, false}
#define BINARY_F(NAME, F) {NAME, binary<F, float, float>, true}
#define BINARY_I(NAME, F) {NAME, binary<F, I, I>, true}
#define COMPARE(NAME, F) {NAME ".f", binary<F, float, I>, true}, {NAME ".i", binary<F, I, I>, true}

}  // namespace

const std::vector<PointwiseOp>& pointwise_ops() {
  static const std::vector<PointwiseOp> ops = {
      UNARY_F("Abs.f", AbsF), UNARY_F("Neg.f", Neg), UNARY_F("Square.f", Square),
      UNARY_F("Sign.f", SignF), UNARY_F("Floor.f", Floor), UNARY_F("Ceil.f", Ceil),
      UNARY_F("Round.f", Round), UNARY_F("Relu.f", Relu), UNARY_F("Exp.f", Exp),
      UNARY_F("Expm1.f", Expm1), UNARY_F("Log.f", Log), UNARY_F("Log1p.f", Log1p),
      UNARY_F("Sqrt.f", Sqrt), UNARY_F("Rsqrt.f", Rsqrt), UNARY_F("Reciprocal.f", Reciprocal),
      UNARY_F("Sigmoid.f", Sigmoid), UNARY_F("Softplus.f", Softplus), UNARY_F("Tanh.f", Tanh),
      UNARY_F("Erf.f", Erf), UNARY_F("Sin.f", Sin), UNARY_F("Cos.f", Cos), UNARY_F("Tan.f", Tan),
      UNARY_F("Asin.f", Asin), UNARY_F("Acos.f", Acos), UNARY_F("Atan.f", Atan),
      UNARY_F("Sinh.f", Sinh), UNARY_F("Cosh.f", Cosh), UNARY_F("Asinh.f", Asinh),
      UNARY_F("Acosh.f", Acosh), UNARY_F("Atanh.f", Atanh), UNARY_F("Elu.f", Elu),
      UNARY_F("Selu.f", Selu), UNARY_F("Silu.f", Silu), UNARY_F("Gelu.f", Gelu),
      {"IsNan.f", unary<IsNan, float, I>, false},
      {"IsInf.f", unary<IsInf, float, I>, false},
      {"IsFinite.f", unary<IsFinite, float, I>, false},
      {"Abs.i", unary<Abs, I, I>, false},
      {"Neg.i", unary<Neg, I, I>, false},
      {"Square.i", unary<WrapSquare, I, I>, false},
      {"Sign.i", unary<Sign, I, I>, false},
      {"Relu.i", unary<Relu, I, I>, false},
      {"LogicalNot.i", unary<Not, I, I>, false},
      {"int to float", unary<ToFloat, I, float>, false},
      {"float to int", unary<ToInt, float, I>, false},
      {"float to bool", unary<Truth, float, I>, false},
      {"int to bool", unary<Truth, I, I>, false},
      BINARY_F("Add.f", Add), BINARY_F("Sub.f", Sub), BINARY_F("Multiply.f", Mul),
      BINARY_F("RealDiv.f", Div), BINARY_F("Maximum.f", Max), BINARY_F("Minimum.f", Min),
      BINARY_F("Pow.f", Pow), BINARY_F("Mod.f", Mod), BINARY_F("Atan2.f", Atan2),
      BINARY_F("SquaredDifference.f", SquaredDifference),
      {"FloorDiv.f", binary<FloorDiv, float, I>, true},
      BINARY_F("EluGrad.f", EluGrad), BINARY_F("Prelu.f", LeakyRelu),
      BINARY_F("Step.f", Step), BINARY_F("SiluGrad.f", SiluGrad),
      BINARY_F("GeluGrad.f", GeluGrad),
      BINARY_I("Add.i", WrapAdd), BINARY_I("Sub.i", WrapSub), BINARY_I("Multiply.i", WrapMul),
      BINARY_I("RealDiv.i", IntDiv), BINARY_I("Maximum.i", Max), BINARY_I("Minimum.i", Min),
      BINARY_I("Pow.i", IntPow), BINARY_I("Mod.i", Mod), BINARY_I("FloorDiv.i", FloorDiv),
      BINARY_I("SquaredDifference.i", WrapSquaredDifference),
      COMPARE("Equal", Equal), COMPARE("NotEqual", NotEqual), COMPARE("Less", Less),
      COMPARE("LessEqual", LessEqual), COMPARE("Greater", Greater),
      COMPARE("GreaterEqual", GreaterEqual),
      BINARY_I("LogicalAnd.i", And), BINARY_I("LogicalOr.i", Or), BINARY_I("LogicalXor.i", Xor),
      {"Clip.f", clip<float>, false}, {"Clip.i", clip<I>, false}, {"Select", select, false},
  };
  return ops;
}

}  // namespace tessera::exec
