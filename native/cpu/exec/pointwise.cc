/**
 * Element-wise programs: a chain or tree of operations runs over blocks small enough for the first-level
 * cache, so values between the operations never reach memory. Operands may be broadcast, sliced,
 * transposed, one value, or bytes; results may also be summed up on the way.
 */
#include <algorithm>
#include <memory>
#include <stdexcept>

#include "denormals.h"
#include "pointwise_ops.h"
#include "program.h"
#include "strided.h"

namespace tessera::exec {
namespace {

enum class Element { word, byte };
enum class Mode { dense, scalar, strided, immediate };

struct Load {
  Element element;
  Mode mode;
  int reg;
  int input = -1;
  Strided view;
  std::int64_t period = 0;  // of a view that repeats its last axis
  Operand value;            // of an immediate
  bool wanted = false;      // some instruction wants a scalar as a block
};

struct Code {
  Instruction run;
  int result, a, b, c;
};

struct Store {
  Element element;
  int reg;
};

struct Plan {
  std::int64_t count;
  int block;
  int registers;
  std::vector<Load> loads;
  std::vector<Code> code;
  std::vector<Store> stores;
  std::vector<int> sums;
  bool direct = false;  // the last instruction writes the only result
};

constexpr std::int64_t LONGEST_PERIOD = 8192;

/** Doubles up in a fixed order, whatever the thread. */
double sum_block(const float* x, int n) {
  float lanes[16] = {};
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int k = 0; k < 16; k++) {
      lanes[k] += x[i + k];
    }
  }
  double total = 0;
  for (const float lane : lanes) {
    total += lane;
  }
  for (; i < n; i++) {
    total += x[i];
  }
  return total;
}

struct Workspace {
  std::vector<float> registers;
  std::vector<float> repeated;
};
thread_local Workspace workspace;

/** Blocks [first, last) of a plan. */
void run_blocks(const Plan& plan, const Spec& spec, const Run& run, std::int64_t first,
                std::int64_t last, double* partial) {
  const FlushDenormals flush;
  const int block = plan.block;
  auto& memory = workspace.registers;
  memory.resize(static_cast<std::size_t>(plan.registers) * block);
  std::vector<Operand> operands(plan.registers);
  for (int r = 0; r < plan.registers; r++) {
    operands[r].block = memory.data() + static_cast<std::size_t>(r) * block;
  }
  const auto buffer = [&](int r) { return memory.data() + static_cast<std::size_t>(r) * block; };

  // What does not change from block to block.
  std::size_t repeats = 0;
  for (const Load& load : plan.loads) {
    repeats += load.period > 0 ? load.period + block : 0;
  }
  workspace.repeated.resize(repeats);
  std::vector<float*> repeated(plan.loads.size(), nullptr);
  float* free = workspace.repeated.data();
  for (std::size_t l = 0; l < plan.loads.size(); l++) {
    const Load& load = plan.loads[l];
    Operand& operand = operands[load.reg];
    if (load.mode == Mode::immediate) {
      operand.i = load.value.i;
    } else if (load.mode == Mode::scalar) {
      operand.i = load.element == Element::byte
                      ? *run.at<std::uint8_t>(spec.inputs[load.input])
                      : *run.at<std::int32_t>(spec.inputs[load.input]);
    }
    if (load.mode == Mode::immediate || load.mode == Mode::scalar) {
      operand.scalar = !load.wanted;
      if (load.wanted) {
        auto* words = reinterpret_cast<std::int32_t*>(buffer(load.reg));
        std::fill(words, words + block, operand.i);
      }
    } else if (load.period > 0) {
      const float* source = run.floats(spec.inputs[load.input]);
      for (std::int64_t i = 0; i < load.period + block; i += load.period) {
        std::copy(source, source + std::min(load.period, load.period + block - i), free + i);
      }
      repeated[l] = free;
      free += load.period + block;
    }
  }

  for (std::int64_t at = first; at < last; at++) {
    const std::int64_t begin = at * block;
    const int n = static_cast<int>(std::min<std::int64_t>(block, plan.count - begin));
    for (std::size_t l = 0; l < plan.loads.size(); l++) {
      const Load& load = plan.loads[l];
      if (load.mode == Mode::immediate || load.mode == Mode::scalar) {
        continue;
      }
      Operand& operand = operands[load.reg];
      const std::int32_t input = spec.inputs[load.input];
      if (load.period > 0) {
        operand.block = repeated[l] + begin % load.period;
      } else if (load.element == Element::byte) {
        auto* words = reinterpret_cast<std::int32_t*>(buffer(load.reg));
        operand.block = words;
        const std::uint8_t* source = run.at<std::uint8_t>(input);
        if (load.mode == Mode::dense) {
          for (int i = 0; i < n; i++) {
            words[i] = source[begin + i];
          }
        } else {
          std::uint8_t bytes[8192];
          gather_view(load.view, source, begin, begin + n, bytes);
          for (int i = 0; i < n; i++) {
            words[i] = bytes[i];
          }
        }
      } else if (load.mode == Mode::dense) {
        operand.block = run.floats(input) + begin;
      } else {
        operand.block = buffer(load.reg);
        gather_view(load.view, run.floats(input), begin, begin + n, buffer(load.reg));
      }
    }
    for (std::size_t k = 0; k < plan.code.size(); k++) {
      const Code& code = plan.code[k];
      void* result = plan.direct && k + 1 == plan.code.size()
                         ? static_cast<void*>(run.floats(spec.outputs[0]) + begin)
                         : static_cast<void*>(buffer(code.result));
      code.run(n, result, operands[code.a], operands[code.b], operands[code.c]);
      // A result may take over a register that pointed elsewhere.
      operands[code.result].block = result;
      operands[code.result].scalar = false;
    }
    for (std::size_t s = 0; !plan.direct && s < plan.stores.size(); s++) {
      const Store& store = plan.stores[s];
      const void* values = operands[store.reg].block;
      if (store.element == Element::byte) {
        std::uint8_t* target = run.at<std::uint8_t>(spec.outputs[s]) + begin;
        const auto* words = static_cast<const std::int32_t*>(values);
        for (int i = 0; i < n; i++) {
          target[i] = static_cast<std::uint8_t>(words[i]);
        }
      } else {
        std::memcpy(run.floats(spec.outputs[s]) + begin, values, n * sizeof(float));
      }
    }
    for (std::size_t s = 0; s < plan.sums.size(); s++) {
      const auto* values = static_cast<const float*>(operands[plan.sums[s]].block);
      partial[at * plan.sums.size() + s] = sum_block(values, n);
    }
  }
}

Load read_load(Spec& spec, int& inputs) {
  Load load;
  load.element = static_cast<Element>(spec.next());
  load.mode = static_cast<Mode>(spec.next());
  load.reg = static_cast<int>(spec.next());
  if (load.mode == Mode::immediate) {
    load.element == Element::byte ? void(load.value.i = static_cast<std::int32_t>(spec.number()))
                                  : void(load.value.f = static_cast<float>(spec.number()));
    return load;
  }
  load.input = inputs++;
  if (load.mode == Mode::strided) {
    const std::int64_t rank = spec.next();
    load.view.dims = spec.take(rank);
    load.view.strides = spec.take(rank);
    if (load.element == Element::word && rank == 2 && load.view.strides[0] == 0 &&
        load.view.strides[1] == 1 && load.view.dims[1] <= LONGEST_PERIOD) {
      load.period = load.view.dims[1];
    }
  }
  return load;
}

/**
 * Integers: count, block, registers; loads; instructions (code, result, a, b, c); stores; sums.
 * Immediates' values are the step's numbers (integers where the element is "byte"), then one factor a sum.
 */
Step pointwise(Spec& spec) {
  auto plan = std::make_shared<Plan>();
  plan->count = spec.next();
  plan->block = static_cast<int>(spec.next());
  plan->registers = static_cast<int>(spec.next());
  int inputs = 0;
  for (std::int64_t left = spec.next(); left > 0; left--) {
    plan->loads.push_back(read_load(spec, inputs));
  }
  std::vector<Load*> scalars(plan->registers, nullptr);
  for (Load& load : plan->loads) {
    if (load.mode == Mode::scalar || load.mode == Mode::immediate) {
      scalars[load.reg] = &load;
    }
  }
  for (std::int64_t left = spec.next(); left > 0; left--) {
    const PointwiseOp& op = pointwise_ops().at(spec.next());
    Code code{op.run, 0, 0, 0, 0};
    code.result = static_cast<int>(spec.next());
    code.a = static_cast<int>(spec.next());
    code.b = static_cast<int>(spec.next());
    code.c = static_cast<int>(spec.next());
    const bool both = scalars[code.a] != nullptr && scalars[code.b] != nullptr;
    for (const int r : {code.a, code.b, code.c}) {
      if (scalars[r] != nullptr && (!op.binary || (both && r == code.a))) {
        scalars[r]->wanted = true;
      }
    }
    plan->code.push_back(code);
  }
  for (std::int64_t left = spec.next(); left > 0; left--) {
    const auto element = static_cast<Element>(spec.next());
    plan->stores.push_back({element, static_cast<int>(spec.next())});
  }
  std::vector<double> factors;
  for (std::int64_t left = spec.next(); left > 0; left--) {
    plan->sums.push_back(static_cast<int>(spec.next()));
    factors.push_back(spec.number());
  }
  for (const int reg : plan->sums) {
    if (scalars[reg] != nullptr) {
      scalars[reg]->wanted = true;
    }
  }
  for (const Store& store : plan->stores) {
    if (scalars[store.reg] != nullptr) {
      scalars[store.reg]->wanted = true;
    }
  }
  plan->direct = plan->stores.size() == 1 && plan->sums.empty() && !plan->code.empty() &&
                 plan->stores[0].element == Element::word &&
                 plan->stores[0].reg == plan->code.back().result;
  if (plan->block > 8192) {
    throw std::logic_error("a block of more than 8192 values");
  }
  return [plan, factors, spec](const Run& run) {
    const std::int64_t blocks = (plan->count + plan->block - 1) / plan->block;
    std::vector<double> partial(blocks * plan->sums.size());
    const std::int64_t grain = std::max<std::int64_t>(1, 32768 / plan->block);
    if (blocks <= grain) {
      run_blocks(*plan, spec, run, 0, blocks, partial.data());
    } else {
      parallel_for(blocks, grain, [&](i64 begin, i64 end, int) {
        run_blocks(*plan, spec, run, begin, end, partial.data());
      });
    }
    for (std::size_t s = 0; s < plan->sums.size(); s++) {
      double total = 0;
      for (std::int64_t at = 0; at < blocks; at++) {
        total += partial[at * plan->sums.size() + s];
      }
      *run.floats(spec.outputs[plan->stores.size() + s]) = static_cast<float>(total * factors[s]);
    }
  };
}

}  // namespace

std::vector<StepKind> pointwise_steps() { return {{"Pointwise", pointwise}}; }

}  // namespace tessera::exec
