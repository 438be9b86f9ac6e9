// Data-parallel groups: c10d's process groups (Gloo on processors, NCCL on GPUs), which libtorch carries.
// Every rank runs the same plan, in which the collectives follow each other in one fixed order (each one's
// result is an input of the next: src/runtime/torch/collectives.ts), so they meet.
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>
#include <unordered_map>

#include "program.h"

namespace tessera {
namespace {

using at::Tensor;
using Members = c10::intrusive_ptr<c10d::Backend>;
using Work = c10::intrusive_ptr<c10d::Work>;

struct Group {
  c10::intrusive_ptr<c10d::Store> store;
  Members members;
  int world = 1;
  bool averages = false;  // whether the library divides by the number of ranks itself
  std::unordered_map<const void*, Work> running;
};

// Never destroyed at the end of the process: NCCL would wait for captured graphs that hold its kernels.
Group* joined = nullptr;

Group& group() {
  TORCH_CHECK(joined, "a collective was asked for outside of a data-parallel group");
  return *joined;
}

// Long enough for another rank's evaluation or compilation; a rank that died is noticed by its closed connection.
constexpr auto kPatience = std::chrono::hours(24);

Members gloo(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world, const std::string& host) {
  auto options = c10d::ProcessGroupGloo::Options::create(kPatience);
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  const bool local = host == "localhost" || host.rfind("127.", 0) == 0;
  options->devices.push_back(interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                             : local   ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                                       : c10d::ProcessGroupGloo::createDefaultDevice());
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world, options);
}

Members nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world) {
#ifdef USE_C10D_NCCL
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = kPatience;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, world, options);
#else
  (void)store, (void)rank, (void)world;
  TORCH_CHECK(false, "the addon was built without NCCL: its header nccl.h was not found beside PyTorch");
#endif
}

Work start(std::vector<Tensor>& tensors, bool average) {
  c10d::AllreduceOptions options;
  options.reduceOp = average && group().averages ? c10d::ReduceOp(c10d::ReduceOp::AVG) : c10d::ReduceOp(c10d::ReduceOp::SUM);
  return group().members->allreduce(tensors, options);
}

// The sum over all ranks of one tensor; on a GPU in the stream's order.
void allReduce(const Instruction& i, Slots& s, Machine&) {
  std::vector<Tensor> own{arg(i, s, 0).contiguous().clone()};
  start(own, false)->wait();
  put(i, s, 0, own[0]);
}

// Begin the mean over all ranks of several tensors, as one float32 vector. The results may be looked at
// after "AllReduceEnd".
void allReduceBegin(const Instruction& i, Slots& s, Machine& m) {
  int64_t total = 0, offset = 0;
  for (const Spec& spec : i.specs) total += spec.numel();
  std::vector<Tensor> flat{at::empty({total}, at::TensorOptions().device(m.engine.device).dtype(at::kFloat))};
  for (size_t k = 0; k < i.specs.size(); k++) {
    Tensor own = flat[0].narrow(0, offset, i.specs[k].numel()).view(i.specs[k].shape);
    own.copy_(arg(i, s, k));
    s[i.out[k]] = own;
    offset += own.numel();
  }
  group().running[flat[0].storage().data()] = start(flat, true);
}

void allReduceEnd(const Instruction& i, Slots& s, Machine&) {
  Group& g = group();
  const Tensor& first = arg(i, s, 0);
  auto found = g.running.find(first.storage().data());
  TORCH_CHECK(found != g.running.end(), "the end of a collective that was not begun");
  found->second->wait();
  g.running.erase(found);
  if (!g.averages) {
    for (size_t k = 0; k < i.out.size(); k++) s[i.in[k]].div_(g.world);
  }
  for (size_t k = 0; k < i.out.size(); k++) s[i.out[k]] = s[i.in[k]];
}

}  // namespace

std::string joinGroup(const GroupOptions& o) {
  TORCH_CHECK(!joined, "this process is in a data-parallel group already");
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(o.port);
  options.isServer = o.rank == 0 && !o.external;
  if (!o.external) options.numWorkers = static_cast<size_t>(o.world);
  options.waitWorkers = !o.external;
  options.timeout = std::chrono::seconds(o.seconds);
  auto made = std::make_unique<Group>();
  auto store = c10::make_intrusive<c10d::TCPStore>(o.host, options);
  made->store = c10::make_intrusive<c10d::PrefixStore>("tessera", store);
  made->world = o.world;
  // Rank 0's note to all: where it listens for what is not tensors.
  if (o.rank == 0) made->store->set("note", std::vector<uint8_t>(o.note.begin(), o.note.end()));
  const auto note = made->store->get("note");
  made->averages = o.backend == "nccl";
  made->members = made->averages ? nccl(made->store, o.rank, o.world) : gloo(made->store, o.rank, o.world, o.host);
  joined = made.release();
  // Connections are made now, where a failure can be told, and not within a captured graph.
  at::InferenceMode guard;
  std::vector<Tensor> one{at::ones({1}, at::TensorOptions().device(o.device))};
  start(one, false)->wait();
  TORCH_CHECK(one[0].item<float>() == static_cast<float>(o.world), "the ranks do not add up");
  return {note.begin(), note.end()};
}

void leaveGroup() {
  delete joined;
  joined = nullptr;
}

void abandonProcess(int seconds, int code) {
  if (seconds == 0) _exit(code);
  std::thread([seconds, code] {
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    _exit(code);
  }).detach();
}

void addDistributed(Registry& r) {
  r["AllReduce"] = allReduce;
  r["AllReduceBegin"] = allReduceBegin;
  r["AllReduceEnd"] = allReduceEnd;
}

}  // namespace tessera
