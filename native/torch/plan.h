// What JavaScript hands over once for each compiled function: instructions on numbered slots.
// src/runtime/torch/plan.ts writes plans; addon.cc reads them.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace tessera {

struct Spec {
  std::vector<int64_t> shape;
  at::ScalarType type = at::kFloat;

  int64_t numel() const {
    int64_t n = 1;
    for (int64_t side : shape) n *= side;
    return n;
  }
};

struct Instruction;
struct Machine;
struct Plan;
using Slots = std::vector<at::Tensor>;
using Kernel = void (*)(const Instruction&, Slots&, Machine&);

struct Instruction {
  std::string op;
  std::vector<int32_t> in;
  std::vector<int32_t> out;
  std::vector<Spec> specs;  // of `out`
  std::vector<int64_t> ints;
  std::vector<double> floats;
  std::string text;
  std::vector<int32_t> free;  // slots whose last use this is
  std::string where;          // the graph node, for messages
  bool fixed = false;         // computed once and kept until a state is written
  std::shared_ptr<Plan> body;  // one turn of a loop
  Kernel kernel = nullptr;
  mutable std::shared_ptr<void> cache;  // what a kernel keeps between runs
};

struct Engine {
  at::Device device = at::kCPU;
  bool tf32 = false;
  bool deterministic = false;
  bool benchmark = true;
};

// Where time goes, by instruction: seconds and calls.
using Profile = std::map<std::string, std::pair<double, int>>;

// What kernels see while a program runs.
struct Machine {
  const Engine& engine;
  bool graph = false;          // loops capture their bodies
  bool turn = false;           // within a turn of a loop, which begins with a kernel that waits for all before it
  Profile* profile = nullptr;  // where each instruction is waited for and timed
  bool cuda() const { return engine.device.is_cuda(); }
};

struct InputSpec {
  int32_t slot;
  Spec spec;
};

struct StateSpec {
  int32_t slot;
  int32_t next;  // -1 where the function only reads it
};

struct Plan {
  std::string name;
  int32_t slots = 0;
  bool graph = false;
  std::vector<Instruction> instructions;
  std::vector<InputSpec> inputs;
  std::vector<std::pair<int32_t, at::Tensor>> constants;
  std::vector<StateSpec> states;
  std::vector<int32_t> outputs;
  std::vector<Spec> outputSpecs;
};

// Run a plan's instructions (but fixed ones) on slots that hold its inputs and states.
void runAll(const Plan& plan, Slots& slots, Machine& machine);

// Errors that a library left behind after coping with them: CUDA's next check would take them for its own.
void forgetErrors();

// Kernels by name; each ops_*.cc adds its own.
using Registry = std::map<std::string, Kernel>;
void addPointwise(Registry&);
void addShaping(Registry&);
void addReductions(Registry&);
void addNetworks(Registry&);
void addFused(Registry&);
void addDecoding(Registry&);
void addLoops(Registry&);
void addGelu(Registry&);
void addDistributed(Registry&);
const Registry& kernels();

// Give an output slot its tensor, in the type the plan says.
inline void put(const Instruction& i, Slots& s, size_t k, at::Tensor t) {
  const Spec& spec = i.specs[k];
  if (t.scalar_type() != spec.type) t = t.to(spec.type);
  s[i.out[k]] = std::move(t);
}

inline const at::Tensor& arg(const Instruction& i, Slots& s, size_t k) { return s[i.in[k]]; }

// float32 for what has no bfloat16 arithmetic of its own.
inline at::Tensor wide(const at::Tensor& t) {
  return t.scalar_type() == at::kBFloat16 ? t.to(at::kFloat) : t;
}

}  // namespace tessera
