// A loaded plan with what it needs to run: the executor.
#pragma once

#include <memory>
#include <mutex>

#include "plan.h"

namespace tessera {

// The values of one variable on the device. All programs that use the variable share one buffer, whose
// address changes only in `Program::bind`.
struct Buffer {
  at::Tensor tensor;
  int64_t version = 0;  // counts writes
};

// Host memory of an input or an output: owned by JavaScript while a call runs.
struct HostInput {
  const void* data = nullptr;
  size_t bytes = 0;
  at::ScalarType type = at::kFloat;  // as the host has it: uint8 pixels become int32 on the device
};

struct HostOutput {
  std::vector<char> bytes;
};

struct GraphState;  // a captured CUDA graph, where there is CUDA

class Program {
 public:
  Program(Plan plan, std::shared_ptr<Engine> engine);
  ~Program();

  // One call: inputs in the plan's order, buffers in the order of its states.
  std::vector<HostOutput> run(const std::vector<HostInput>& inputs, const std::vector<std::shared_ptr<Buffer>>& states);

  const Plan& plan() const { return plan_; }

 private:
  void prepare(Plan& plan);
  void bind(const std::vector<std::shared_ptr<Buffer>>& states);
  void execute(Slots& slots);
  void refresh();
  void store(Slots& slots);
  std::vector<HostOutput> runCpu(const std::vector<HostInput>&);
  std::vector<HostOutput> runCuda(const std::vector<HostInput>&);

  Plan plan_;
  std::shared_ptr<Engine> engine_;
  std::vector<std::shared_ptr<Buffer>> states_;
  std::vector<at::Tensor> bound_;       // the buffers' tensors as this program knows them
  std::vector<at::Tensor> staticInputs_;
  std::vector<at::Tensor> hostInputs_;
  std::vector<at::Tensor> results_;
  std::vector<at::Tensor> hostResults_;
  std::unique_ptr<GraphState> captured_;
  // Results of fixed instructions, by slot, and the versions of the states that they were made from.
  std::map<int32_t, at::Tensor> fixed_;
  std::vector<int64_t> versions_;
  int runs_ = 0;
  bool loops_ = false;   // loops capture their own bodies
  bool graphs_ = false;  // capture and replay
};

// Says on which device tensors are to be had; throws what JavaScript shows as a UserError.
struct EngineInfo {
  std::string version, name;
  int64_t memory = 0;
};
EngineInfo openEngine(Engine& engine);
int deviceCount();
// Bytes now and at most, since the start or the last reset.
std::pair<int64_t, int64_t> memoryUse(const Engine& engine, bool reset);
void synchronize(const Engine& engine);
void copyToHost(const at::Tensor& t, void* out, size_t bytes);
void copyToDevice(at::Tensor& t, const void* in, size_t bytes);

// Data-parallel groups (distributed.cc).
struct GroupOptions {
  std::string backend;  // gloo | nccl
  int rank = 0, world = 1;
  std::string host;  // of the store by which the ranks find each other
  int port = 0;
  bool external = false;  // somebody else serves the store; else rank 0 does
  int seconds = 300;      // to wait for the other ranks
  std::string note;       // of rank 0 to all
  at::Device device = at::kCPU;
};
// Join, and return rank 0's note.
std::string joinGroup(const GroupOptions& options);
void leaveGroup();
// End the process after some seconds whatever it is doing then: collectives may wait for a dead rank for ever.
void abandonProcess(int seconds, int code);

}  // namespace tessera
