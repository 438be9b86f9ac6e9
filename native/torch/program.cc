// Runs a plan: node by node, or, on CUDA, as one captured graph after two runs of warming up.
//
// States are updated in place at the end of a run. Inputs go through tensors with fixed addresses, so a
// captured graph reads them where they always are.
#include "program.h"

#include <ATen/Parallel.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_set>

#ifdef TESSERA_CUDA
#include "graph_state.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#endif

namespace tessera {

#ifndef TESSERA_CUDA
struct GraphState {};
#endif

const Registry& kernels() {
  static const Registry all = [] {
    Registry r;
    addPointwise(r);
    addShaping(r);
    addReductions(r);
    addNetworks(r);
    addFused(r);
    addDecoding(r);
    addLoops(r);
    addGelu(r);
    addDistributed(r);
    return r;
  }();
  return all;
}


Program::Program(Plan plan, std::shared_ptr<Engine> engine) : plan_(std::move(plan)), engine_(std::move(engine)) {
  prepare(plan_);
  graphs_ = plan_.graph;
}

void Program::prepare(Plan& plan) {
  const Registry& all = kernels();
  for (auto& i : plan.instructions) {
    auto found = all.find(i.op);
    TORCH_CHECK(found != all.end(), "no kernel for \"", i.op, "\"");
    i.kernel = found->second;
    if (i.body) {
      loops_ = true;
      prepare(*i.body);
    }
  }
  for (auto& constant : plan.constants) constant.second = constant.second.to(engine_->device);
}

// What a step of a call throws, with what was being done.
template <typename F>
static void during(const std::string& what, F step) {
  try {
    step();
  } catch (const c10::Error& error) {  // without its stack trace
    throw std::runtime_error(what + ": " + error.what_without_backtrace());
  } catch (const std::exception& error) {
    throw std::runtime_error(what + ": " + error.what());
  }
}

Program::~Program() = default;

static void checkShapes(const Instruction& i, const Slots& slots) {
  for (size_t k = 0; k < i.out.size(); k++) {
    const at::Tensor& made = slots[i.out[k]];
    if (k < i.specs.size() && !(made.defined() && made.sizes() == at::IntArrayRef(i.specs[k].shape))) {
      std::string got = made.defined() ? c10::str(made.sizes()) : std::string("nothing");
      throw std::runtime_error(i.where + ": made " + got + ", expected " + c10::str(at::IntArrayRef(i.specs[k].shape)));
    }
  }
}

// Compute the fixed instructions again where a state that the function only reads has been written since.
// Their results keep their places: a captured graph reads them there.
void Program::refresh() {
  std::vector<int64_t> versions;
  for (size_t k = 0; k < plan_.states.size(); k++) {
    if (plan_.states[k].next < 0) versions.push_back(states_[k]->version);
  }
  if (versions == versions_ && !versions_.empty()) return;
  bool any = false;
  for (const auto& i : plan_.instructions) any = any || i.fixed;
  if (!any || (versions.empty() && !fixed_.empty())) return;
  versions_ = versions;
  Machine machine{*engine_};
  Slots slots(plan_.slots);
  for (const auto& constant : plan_.constants) slots[constant.first] = constant.second;
  for (size_t k = 0; k < plan_.states.size(); k++) slots[plan_.states[k].slot] = bound_[k];
  std::unordered_set<int32_t> used;
  for (const auto& i : plan_.instructions) {
    if (!i.fixed) used.insert(i.in.begin(), i.in.end());
  }
  for (int32_t slot : plan_.outputs) used.insert(slot);
  for (const auto& i : plan_.instructions) {
    if (!i.fixed) continue;
    during(i.where, [&] { i.kernel(i, slots, machine); });
    checkShapes(i, slots);
  }
  for (const auto& i : plan_.instructions) {
    if (!i.fixed) continue;
    for (int32_t slot : i.out) {
      if (used.count(slot) == 0 || !slots[slot].defined()) continue;
      at::Tensor& kept = fixed_[slot];
      if (!kept.defined()) {
        // A repeated value has one place for all its elements: it is laid out, to be written to next time.
        kept = slots[slot].is_non_overlapping_and_dense() ? slots[slot] : slots[slot].contiguous();
      } else if (kept.data_ptr() != slots[slot].data_ptr()) {
        kept.copy_(slots[slot]);
      }
    }
  }
}

static void printProfile(const std::string& name, const Profile& spent) {
  std::vector<std::pair<double, std::string>> rows;
  double all = 0;
  for (const auto& [where, entry] : spent) {
    rows.emplace_back(entry.first, where + " x" + std::to_string(entry.second));
    all += entry.first;
  }
  std::sort(rows.rbegin(), rows.rend());
  std::fprintf(stderr, "profile of %s: %.2f ms\n", name.c_str(), all * 1e3);
  for (size_t k = 0; k < rows.size() && k < 60; k++) std::fprintf(stderr, "  %8.3f ms  %s\n", rows[k].first * 1e3, rows[k].second.c_str());
}

void runAll(const Plan& plan, Slots& slots, Machine& machine) {
  for (const auto& constant : plan.constants) slots[constant.first] = constant.second;
  for (const auto& i : plan.instructions) {
    if (i.fixed) continue;
    const auto begin = std::chrono::steady_clock::now();
    during(i.where, [&] {
      i.kernel(i, slots, machine);
      if (machine.profile && !i.body) {
        synchronize(machine.engine);
        auto& [seconds, count] = (*machine.profile)[i.where];
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        count += 1;
      }
    });
    checkShapes(i, slots);
    for (int32_t slot : i.free) slots[slot] = at::Tensor();
  }
}

void Program::execute(Slots& slots) {
  Machine machine{*engine_};
  machine.graph = graphs_;
  for (size_t k = 0; k < plan_.states.size(); k++) slots[plan_.states[k].slot] = bound_[k];
  for (const auto& [slot, value] : fixed_) slots[slot] = value;
  // TESSERA_PROFILE=1 prints where the time of the second call goes, each instruction by itself.
  Profile spent;
  if (runs_ == 1 && std::getenv("TESSERA_PROFILE") != nullptr) machine.profile = &spent;
  runAll(plan_, slots, machine);
  if (machine.profile) printProfile(plan_.name, spent);
}

// New values into the states' buffers. A value that is itself a view of some state is copied first, since
// another state's update could overwrite it.
void Program::store(Slots& slots) {
  std::unordered_set<const void*> owned;
  for (const auto& t : bound_) owned.insert(t.storage().data());
  std::vector<at::Tensor> next(plan_.states.size());
  auto isSame = [](const at::Tensor& a, const at::Tensor& b) {
    return a.data_ptr() == b.data_ptr() && a.strides() == b.strides() && a.numel() == b.numel();
  };
  for (size_t k = 0; k < next.size(); k++) {
    if (plan_.states[k].next < 0) continue;
    const at::Tensor& value = slots[plan_.states[k].next];
    if (isSame(value, bound_[k])) continue;  // a kernel has already written it in place
    next[k] = owned.count(value.storage().data()) ? value.clone() : value;
  }
  for (size_t k = 0; k < next.size(); k++) {
    if (next[k].defined()) bound_[k].copy_(next[k]);
    if (plan_.states[k].next >= 0) states_[k]->version += 1;
  }
}

// Learn the buffers of a call. The first call of a program that joins variables end to end ("ConcatStates")
// moves those into one storage; every program notices buffers that moved and captures anew.
void Program::bind(const std::vector<std::shared_ptr<Buffer>>& states) {
  states_ = states;
  std::map<int32_t, size_t> stateOf;
  for (size_t k = 0; k < plan_.states.size(); k++) stateOf[plan_.states[k].slot] = k;
  for (const auto& i : plan_.instructions) {
    if (i.op != "ConcatStates") continue;
    std::vector<Buffer*> parts;
    for (int32_t slot : i.in) {
      auto found = stateOf.find(slot);
      if (found != stateOf.end()) parts.push_back(states_[found->second].get());
    }
    if (parts.size() != i.in.size()) continue;
    int64_t total = 0;
    bool together = true;
    const auto* storage = parts[0]->tensor.storage().unsafeGetStorageImpl();
    const int64_t start = parts[0]->tensor.storage_offset();
    for (Buffer* part : parts) {
      together = together && part->tensor.storage().unsafeGetStorageImpl() == storage &&
                 part->tensor.storage_offset() == start + total;
      total += part->tensor.numel();
    }
    if (together) continue;
    at::Tensor flat = at::empty({total}, parts[0]->tensor.options());
    int64_t offset = 0;
    for (Buffer* part : parts) {
      at::Tensor moved = flat.narrow(0, offset, part->tensor.numel()).view(part->tensor.sizes());
      moved.copy_(part->tensor);
      part->tensor = moved;
      offset += moved.numel();
    }
  }
  bool moved = bound_.size() != states_.size();
  for (size_t k = 0; k < states_.size() && !moved; k++) moved = bound_[k].data_ptr() != states_[k]->tensor.data_ptr();
  bound_.clear();
  for (const auto& state : states_) bound_.push_back(state->tensor);
  if (moved) {
    captured_.reset();
    fixed_.clear();
    versions_.clear();
    runs_ = 0;
  }
}

std::vector<HostOutput> Program::run(const std::vector<HostInput>& inputs,
                                     const std::vector<std::shared_ptr<Buffer>>& states) {
  at::InferenceMode guard;
  bind(states);
  return engine_->device.is_cuda() ? runCuda(inputs) : runCpu(inputs);
}

static at::Tensor onHost(const HostInput& input, const Spec& spec) {
  return at::from_blob(const_cast<void*>(input.data), spec.shape, at::TensorOptions().dtype(input.type));
}

std::vector<HostOutput> Program::runCpu(const std::vector<HostInput>& inputs) {
  Slots slots(plan_.slots);
  for (size_t k = 0; k < inputs.size(); k++) {
    // A copy: an output may be a view of it.
    slots[plan_.inputs[k].slot] = onHost(inputs[k], plan_.inputs[k].spec).to(plan_.inputs[k].spec.type, false, true);
  }
  refresh();
  execute(slots);
  std::vector<HostOutput> outputs(plan_.outputs.size());
  for (size_t k = 0; k < outputs.size(); k++) {
    const Spec& spec = plan_.outputSpecs[k];
    at::Tensor t = slots[plan_.outputs[k]].to(spec.type).contiguous();
    outputs[k].bytes.resize(t.nbytes());
    std::memcpy(outputs[k].bytes.data(), t.data_ptr(), t.nbytes());
  }
  store(slots);
  return outputs;
}

#ifndef TESSERA_CUDA
std::vector<HostOutput> Program::runCuda(const std::vector<HostInput>&) {
  throw std::runtime_error("this addon was built against a PyTorch without CUDA");
}
int deviceCount() { return 0; }
std::pair<int64_t, int64_t> memoryUse(const Engine&, bool) { return {0, 0}; }
void synchronize(const Engine&) {}
void forgetErrors() {}
#else

void forgetErrors() { (void)cudaGetLastError(); }

// Host memory for copies: pinned where the driver gives some, which it may refuse to many processes at once, else
// ordinary (copies are slower then, nothing else).
static at::Tensor hostMemory(at::IntArrayRef shape, at::ScalarType type) {
  try {
    return at::empty(shape, at::TensorOptions().pinned_memory(true).dtype(type));
  } catch (const c10::Error& error) {
    forgetErrors();
    static bool told = false;
    if (!told) std::fprintf(stderr, "warning: no pinned memory, copies take longer: %s\n", error.what_without_backtrace());
    told = true;
    return at::empty(shape, at::TensorOptions().dtype(type));
  }
}

static c10::cuda::CUDAStream ownStream(const Engine& engine) {
  static std::map<int, c10::cuda::CUDAStream> streams;
  auto found = streams.find(engine.device.index());
  if (found == streams.end()) {
    found = streams.emplace(engine.device.index(), c10::cuda::getStreamFromPool(true, engine.device.index())).first;
  }
  return found->second;
}

std::vector<HostOutput> Program::runCuda(const std::vector<HostInput>& inputs) {
  c10::cuda::CUDAGuard device(engine_->device);
  const auto stream = ownStream(*engine_);
  c10::cuda::CUDAStreamGuard onStream(stream);
  forgetErrors();

  // Inputs go through host memory of the program's own: every call ends by waiting for the stream, so the copies
  // of the last one are over.
  if (hostInputs_.empty()) {
    during("memory for the inputs", [&] {
      for (size_t k = 0; k < inputs.size(); k++) {
        const Spec& spec = plan_.inputs[k].spec;
        staticInputs_.push_back(at::empty(spec.shape, at::TensorOptions().device(engine_->device).dtype(spec.type)));
        hostInputs_.push_back(hostMemory(spec.shape, inputs[k].type));
      }
    });
  }
  for (size_t k = 0; k < inputs.size(); k++) {
    during("input " + std::to_string(k), [&] {
      at::Tensor& staging = hostInputs_[k];
      TORCH_CHECK(staging.nbytes() == inputs[k].bytes && staging.scalar_type() == inputs[k].type, "has another size or type");
      std::memcpy(staging.data_ptr(), inputs[k].data, inputs[k].bytes);
      staticInputs_[k].copy_(staging, true);
    });
  }

  auto once = [&] {
    Slots slots(plan_.slots);
    for (size_t k = 0; k < plan_.inputs.size(); k++) slots[plan_.inputs[k].slot] = staticInputs_[k];
    execute(slots);
    results_.clear();
    for (size_t k = 0; k < plan_.outputs.size(); k++) {
      at::Tensor t = slots[plan_.outputs[k]].to(plan_.outputSpecs[k].type).contiguous();
      // States change below: an output that shares memory with one is copied before.
      results_.push_back(t.clone());
    }
    store(slots);
  };

  refresh();
  // A graph that cannot be captured or started is given up, said so once, and the call runs kernel by kernel: nothing
  // of it has happened yet. What is wrong with a kernel shows then too.
  auto giveUp = [&](const std::string& what, const char* why) {
    std::fprintf(stderr, "warning: the CUDA graph of \"%s\" could not be %s, its kernels are started one by one: %s\n",
                 plan_.name.c_str(), what.c_str(), why);
    forgetErrors();
    captured_.reset();
    graphs_ = false;
  };
  if (!captured_ && graphs_ && !loops_ && runs_ >= 2) {
    // Warm: the libraries have chosen their algorithms and made their handles on this stream.
    during("before capturing", [&] {
      stream.synchronize();
      c10::cuda::CUDACachingAllocator::emptyCache();
    });
    auto state = std::make_unique<GraphState>();
    try {
      state->capture(once);
      captured_ = std::move(state);
    } catch (const std::exception& error) {
      results_.clear();
      giveUp("captured", error.what());
    }
  }
  bool replayed = false;
  if (captured_) {
    try {
      captured_->graph.replay();
      replayed = true;
    } catch (const c10::Error& error) {
      giveUp("started", error.what_without_backtrace());
    }
  }
  if (replayed) {
    for (size_t k = 0; k < plan_.states.size(); k++) {
      if (plan_.states[k].next >= 0) states_[k]->version += 1;
    }
  } else {
    once();
    runs_ += 1;
  }

  std::vector<HostOutput> outputs(results_.size());
  during("memory for the outputs", [&] {
    if (hostResults_.size() == results_.size()) return;
    hostResults_.clear();
    for (const auto& t : results_) hostResults_.push_back(hostMemory(t.sizes(), t.scalar_type()));
  });
  for (size_t k = 0; k < results_.size(); k++) {
    during("output " + std::to_string(k), [&] { hostResults_[k].copy_(results_[k], true); });
  }
  during("the end of the call", [&] { stream.synchronize(); });
  for (size_t k = 0; k < results_.size(); k++) {
    const auto* data = static_cast<const char*>(hostResults_[k].data_ptr());
    outputs[k].bytes.assign(data, data + hostResults_[k].nbytes());
  }
  if (!captured_) results_.clear();
  return outputs;
}

int deviceCount() { return static_cast<int>(c10::cuda::device_count()); }

std::pair<int64_t, int64_t> memoryUse(const Engine& engine, bool reset) {
  const auto index = engine.device.index();
  if (!engine.device.is_cuda()) return {0, 0};
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(index);
  const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  std::pair<int64_t, int64_t> use{stats.allocated_bytes[all].current, stats.allocated_bytes[all].peak};
  if (reset) c10::cuda::CUDACachingAllocator::resetPeakStats(index);
  return use;
}

void synchronize(const Engine& engine) {
  if (engine.device.is_cuda()) ownStream(engine).synchronize();
}
#endif

EngineInfo openEngine(Engine& engine) {
  EngineInfo info;
  info.version = TESSERA_TORCH_VERSION;
  auto& context = at::globalContext();
  // cuBLAS gives equal bits only with workspaces of its own for each stream.
  if (engine.deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
  context.setBenchmarkCuDNN(engine.benchmark && !engine.deterministic);
  context.setDeterministicCuDNN(engine.deterministic);
  context.setDeterministicAlgorithms(engine.deterministic, /*warn_only=*/true);
  if (!engine.device.is_cuda()) {
    info.name = "CPU, " + std::to_string(at::get_num_threads()) + " threads";
    return info;
  }
#ifdef TESSERA_CUDA
  TORCH_CHECK(c10::cuda::device_count() > 0, "no NVIDIA GPU can be used from here");
  TORCH_CHECK(engine.device.index() < c10::cuda::device_count(), "there is no GPU ", static_cast<int>(engine.device.index()),
              ": this machine has ", static_cast<int>(c10::cuda::device_count()));
  context.setAllowTF32CuBLAS(engine.tf32);
  context.setAllowTF32CuDNN(engine.tf32);
  cudaDeviceProp properties{};
  TORCH_CHECK(cudaGetDeviceProperties(&properties, engine.device.index()) == cudaSuccess, "the GPU does not answer");
  info.name = properties.name;
  info.memory = static_cast<int64_t>(properties.totalGlobalMem);
#else
  TORCH_CHECK(false, "this addon was built against a PyTorch without CUDA");
#endif
  return info;
}

void copyToHost(const at::Tensor& t, void* out, size_t bytes) {
  at::Tensor host = t.contiguous().cpu();
  TORCH_CHECK(host.nbytes() == bytes, "a state of ", host.nbytes(), " bytes was read into ", bytes);
  std::memcpy(out, host.data_ptr(), bytes);
}

void copyToDevice(at::Tensor& t, const void* in, size_t bytes) {
  TORCH_CHECK(t.nbytes() == bytes, "a state of ", t.nbytes(), " bytes was given ", bytes);
  t.copy_(at::from_blob(const_cast<void*>(in), t.sizes(), at::TensorOptions().dtype(t.scalar_type())));
}

}  // namespace tessera
