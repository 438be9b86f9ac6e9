/** See program.h. */
#include "program.h"

#include <sys/mman.h>

#include <chrono>
#include <mutex>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <utility>

#include "denormals.h"

namespace tessera::exec {
namespace {

constexpr std::size_t kLargePage = 2 << 20;

}  // namespace

char* Run::bytes(std::int32_t tensor) const {
  const TensorSpec& spec = tensors_[tensor];
  switch (spec.place) {
    case Place::arena:
      return arena_ + spec.offset;
    case Place::constant:
      return constants_[spec.slot] + spec.offset;
    case Place::input:
      return arrays_.inputs[spec.slot] + spec.offset;
    case Place::state:
      return arrays_.states[spec.slot] + spec.offset;
    case Place::next:
      return arrays_.nexts[spec.slot] + spec.offset;
    case Place::output:
      return arrays_.outputs[spec.slot] + spec.offset;
  }
  throw std::logic_error("a tensor without a place");
}

std::int64_t Spec::next() {
  if (at_ >= ints.size()) {
    throw std::logic_error("a step has too few integers");
  }
  return ints[at_++];
}

std::vector<std::int64_t> Spec::take(std::int64_t count) {
  std::vector<std::int64_t> values(count);
  for (auto& value : values) {
    value = next();
  }
  return values;
}

double Spec::number() {
  if (number_ >= floats.size()) {
    throw std::logic_error("a step has too few numbers");
  }
  return floats[number_++];
}

void Spec::done() const {
  if (at_ != ints.size() || number_ != floats.size()) {
    throw std::logic_error("a step has more numbers than it reads");
  }
}

const std::vector<StepKind>& step_kinds() {
  static const std::vector<StepKind> kinds = [] {
    std::vector<StepKind> all;
    for (const auto& part : {pointwise_steps(), moving_steps(), indexing_steps(),
                             reduction_steps(), pooling_steps(), product_steps(), kernel_steps(),
                             loop_steps()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return kinds;
}

Program::Program(std::vector<TensorSpec> tensors, std::vector<std::vector<char>> constants,
                 std::size_t arena_bytes)
    : tensors_(std::move(tensors)),
      constant_bytes_(std::move(constants)),
      arena_bytes_(arena_bytes) {
  for (auto& bytes : constant_bytes_) {
    constants_.push_back(bytes.data());
  }
  if (arena_bytes_ > 0) {
    // Large pages where there are some: a step of a network touches many small ones.
    const std::size_t page = arena_bytes_ >= kLargePage ? kLargePage : 4096;
    const std::size_t rounded = (arena_bytes_ + page - 1) / page * page;
    arena_ = static_cast<char*>(std::aligned_alloc(page, rounded));
    if (arena_ == nullptr) {
      throw std::bad_alloc();
    }
#if defined(MADV_HUGEPAGE)
    if (page == kLargePage) {
      madvise(arena_, rounded, MADV_HUGEPAGE);
    }
#endif
  }
}

Program::~Program() { std::free(arena_); }

void Program::add(std::int32_t code, Spec spec, std::string label) {
  const StepKind& kind = step_kinds().at(code);
  if (spec.body) {
    bodies_.push_back(spec.body);
  }
  try {
    Step step = kind.make(spec);
    spec.done();
    steps_.push_back(std::move(step));
  } catch (const std::exception& error) {
    throw std::logic_error(std::string(kind.name) + " (" + label + "): " + error.what());
  }
  codes_.push_back(code);
  labels_.push_back(std::move(label));
  seconds_.push_back(0);
}

void Program::run(const Arrays& arrays, int threads) {
  // The kernels' pool and scratch memory serve one program at a time.
  static std::mutex turn;
  const std::lock_guard<std::mutex> hold(turn);
  const FlushDenormals flush;
  if (tessera::threads() != threads) {
    tessera::set_threads(threads);
  }
  pass(arrays);
}

void Program::pass(const Arrays& arrays) {
  const Run run(tensors_, arena_, constants_, arrays);
  if (!profiled_) {
    for (const Step& step : steps_) {
      step(run);
    }
    return;
  }
  using Clock = std::chrono::steady_clock;
  for (std::size_t i = 0; i < steps_.size(); i++) {
    const auto begin = Clock::now();
    steps_[i](run);
    seconds_[i] += std::chrono::duration<double>(Clock::now() - begin).count();
  }
}

std::vector<double> Program::seconds() const {
  std::vector<double> all = seconds_;
  for (const auto& body : bodies_) {
    const std::vector<double> inner = body->seconds();
    all.insert(all.end(), inner.begin(), inner.end());
  }
  return all;
}

}  // namespace tessera::exec
