/**
 * A compiled function as the addon runs it: a flat list of steps over a table of tensors. The plan (order,
 * buffers, fusion) is made in TypeScript (src/runtime/native); here numbers become pointers.
 */
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../kernels/kernels.h"

namespace tessera::exec {

/** Where a tensor's memory comes from. */
enum class Place : std::int32_t { arena, constant, input, state, next, output };

struct TensorSpec {
  Place place;
  std::int32_t slot;    // which constant, input, state or output
  std::int64_t offset;  // bytes from its start
};

/** Arrays of one call, in the order of the graph's inputs, states and outputs. */
struct Arrays {
  std::vector<char*> inputs, states, nexts, outputs;
};

/** A run under way: resolves tensors to pointers. */
class Run {
 public:
  Run(const std::vector<TensorSpec>& tensors, char* arena, const std::vector<char*>& constants,
      const Arrays& arrays)
      : tensors_(tensors), arena_(arena), constants_(constants), arrays_(arrays) {}

  template <typename T>
  T* at(std::int32_t tensor) const {
    return reinterpret_cast<T*>(bytes(tensor));
  }
  float* floats(std::int32_t tensor) const { return at<float>(tensor); }

 private:
  char* bytes(std::int32_t tensor) const;

  const std::vector<TensorSpec>& tensors_;
  char* arena_;
  const std::vector<char*>& constants_;
  const Arrays& arrays_;
};

class Program;

/** The numbers of one step, read in order. */
class Spec {
 public:
  std::shared_ptr<Program> body;  // of a loop
  std::vector<std::int32_t> inputs, outputs, ints;
  std::vector<double> floats;

  /** The next integer. Throws when there is none: the two sides of the format disagree. */
  std::int64_t next();
  std::vector<std::int64_t> take(std::int64_t count);
  double number();
  void done() const;

 private:
  std::size_t at_ = 0, number_ = 0;
};

using Step = std::function<void(const Run&)>;
using Maker = Step (*)(Spec&);

/** A kind of step, by the name that TypeScript uses. */
struct StepKind {
  const char* name;
  Maker make;
  bool loops = false;  // has a body
};

/** All kinds; a step's code is its kind's index. */
const std::vector<StepKind>& step_kinds();

// One table a file, joined by step_kinds().
std::vector<StepKind> pointwise_steps();
std::vector<StepKind> moving_steps();
std::vector<StepKind> indexing_steps();
std::vector<StepKind> reduction_steps();
std::vector<StepKind> pooling_steps();
std::vector<StepKind> product_steps();
std::vector<StepKind> kernel_steps();
std::vector<StepKind> loop_steps();

/** A program ready to run. Its arena is allocated once and used by every call. */
class Program {
 public:
  Program(std::vector<TensorSpec> tensors, std::vector<std::vector<char>> constants,
          std::size_t arena_bytes);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  /** `code` as in step_kinds(); `label` names the node for the profile. */
  void add(std::int32_t code, Spec spec, std::string label);
  void run(const Arrays& arrays, int threads);
  /** All steps once, from within a run: a loop's turn. */
  void pass(const Arrays& arrays);

  void profile(bool on) { profiled_ = on; }
  /** Seconds spent in each step since the start, when profiled; then those of loops' bodies. */
  std::vector<double> seconds() const;
  const std::vector<std::int32_t>& codes() const { return codes_; }

 private:
  std::vector<TensorSpec> tensors_;
  std::vector<std::vector<char>> constant_bytes_;
  std::vector<char*> constants_;
  char* arena_ = nullptr;
  std::size_t arena_bytes_;
  std::vector<Step> steps_;
  std::vector<std::int32_t> codes_;
  std::vector<std::string> labels_;
  std::vector<std::shared_ptr<Program>> bodies_;
  std::vector<double> seconds_;
  bool profiled_ = false;
};

}  // namespace tessera::exec
