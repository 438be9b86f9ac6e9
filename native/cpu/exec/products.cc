/** Steps that are matrix products. */
#include "program.h"

namespace tessera::exec {
namespace {

/**
 * Integers: m, n, k, transposed a, transposed b, row strides of a, b, c, batch, distances between
 * matrices of a, b, c, activation (0 none, 1 SiLU, 2 GELU), whether a bias follows a and b, whether a
 * residual does. Number: alpha.
 */
Step gemm_step(Spec& spec) {
  Gemm shape;
  shape.m = spec.next();
  shape.n = spec.next();
  shape.k = spec.next();
  shape.trans_a = spec.next() != 0;
  shape.trans_b = spec.next() != 0;
  shape.lda = spec.next();
  shape.ldb = spec.next();
  shape.ldc = spec.next();
  shape.batch = spec.next();
  shape.a_stride = spec.next();
  shape.b_stride = spec.next();
  shape.c_stride = spec.next();
  shape.activation = static_cast<Activation>(spec.next());
  const bool bias = spec.next() != 0;
  shape.beta = spec.next() != 0 ? 1.0f : 0.0f;
  shape.alpha = static_cast<float>(spec.number());
  return [spec, shape, bias](const Run& run) {
    Gemm call = shape;
    call.bias = bias ? run.floats(spec.inputs[2]) : nullptr;
    gemm(call, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]), run.floats(spec.outputs[0]));
  };
}

/** b in the kernels' own order. Integers: k, n, strides of k and of columns. */
Step pack_step(Spec& spec) {
  const i64 k = spec.next(), n = spec.next(), kb = spec.next(), cb = spec.next();
  return [=](const Run& run) {
    pack_matrix(k, n, run.floats(spec.inputs[0]), kb, cb, run.floats(spec.outputs[0]));
  };
}

/** Rows times a packed matrix. Integers: m, n, k, row stride of a, activation, whether a bias follows. */
Step packed_step(Spec& spec) {
  PackedGemm shape;
  shape.m = spec.next();
  shape.n = spec.next();
  shape.k = spec.next();
  shape.lda = spec.next();
  shape.activation = static_cast<Activation>(spec.next());
  const bool bias = spec.next() != 0;
  return [=](const Run& run) {
    PackedGemm call = shape;
    call.bias = bias ? run.floats(spec.inputs[2]) : nullptr;
    packed_gemm(call, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]), run.floats(spec.outputs[0]));
  };
}

/** y [outer, o, inner] = matrix [o, n] times x [outer, n, inner]. Integers: outer, o, n, inner. */
Step axis_product(Spec& spec) {
  const i64 outer = spec.next(), o = spec.next(), n = spec.next(), inner = spec.next();
  Gemm shape;
  if (inner == 1) {  // rows times the transposed matrix
    shape.m = outer;
    shape.n = o;
    shape.k = n;
    shape.trans_b = true;
  } else {
    shape.m = o;
    shape.n = inner;
    shape.k = n;
    shape.batch = outer;
    shape.b_stride = n * inner;
    shape.c_stride = o * inner;
  }
  return [spec, shape, inner](const Run& run) {
    const float* x = run.floats(spec.inputs[0]);
    const float* matrix = run.floats(spec.inputs[1]);
    inner == 1 ? gemm(shape, x, matrix, run.floats(spec.outputs[0]))
               : gemm(shape, matrix, x, run.floats(spec.outputs[0]));
  };
}

}  // namespace

std::vector<StepKind> product_steps() {
  return {{"Gemm", gemm_step},
          {"PackMatrix", pack_step},
          {"PackedGemm", packed_step},
          {"AxisProduct", axis_product}};
}

}  // namespace tessera::exec
