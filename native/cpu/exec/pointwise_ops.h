/** The instructions of element-wise programs: loops over blocks of 32-bit values (pointwise.cc). */
#pragma once

#include <cstdint>
#include <vector>

namespace tessera::exec {

/** An operand: a block of values, or one value for all. Integers and truth values are int32. */
struct Operand {
  const void* block = nullptr;
  union {
    float f;
    std::int32_t i;
  };
  bool scalar = false;
  Operand() : f(0) {}
};

using Instruction = void (*)(int n, void* result, const Operand& a, const Operand& b,
                             const Operand& c);

struct PointwiseOp {
  const char* name;
  Instruction run;
  /** Takes scalars for one of its two operands; other instructions want blocks. */
  bool binary;
};

/** All instructions; an instruction's code is its index. */
const std::vector<PointwiseOp>& pointwise_ops();

}  // namespace tessera::exec
