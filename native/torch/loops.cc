// Loops: a body that runs several times, each turn with what the last one left (src/runtime/torch/loops.ts).
//
// Everything that changes from turn to turn lies on the device, the turn's number included: slices are taken and
// outputs put by one small kernel each, carries stay in buffers of their own (or in the state that they come from).
// So on CUDA one turn is captured as a graph and replayed for all others, and nothing waits for the host between them.
#include "kernel_cache.h"

#ifdef TESSERA_CUDA
#include "graph_state.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include <cstdio>
#include <cstring>
#include <unordered_set>

namespace tessera {

#ifndef TESSERA_CUDA
struct GraphState {};
#endif

namespace {

using at::Tensor;

// ints: turns, carries, slices, then for each carry whether its first value may be written over.
struct Sizes {
  int64_t count;
  size_t carries, slices, captured;
};

Sizes sizesOf(const Instruction& i) {
  const size_t carries = i.ints[1], slices = i.ints[2];
  return {i.ints[0], carries, slices, i.in.size() - carries - slices};
}

at::TensorOptions optionsOf(const Machine& m, at::ScalarType type) { return at::TensorOptions().device(m.engine.device).dtype(type); }

// What a turn leaves: the new carries, in the buffers' types, and the outputs. Values that lie in a carry's buffer
// are copied, because that buffer is about to change; a carry that was written in place is left out.
struct Left {
  std::vector<Tensor> next, outputs;
};

Left leftBy(const Plan& body, Slots& slots, const std::vector<Tensor>& carries) {
  std::unordered_set<const void*> own;
  for (const Tensor& t : carries) own.insert(t.storage().data());
  auto apart = [&](const Tensor& t, at::ScalarType type) {
    Tensor value = (t.scalar_type() == type ? t : t.to(type)).contiguous();
    return own.count(value.storage().data()) ? value.clone() : value;
  };
  Left left;
  for (size_t k = 0; k < body.outputs.size(); k++) left.outputs.push_back(apart(slots[body.outputs[k]], body.outputSpecs[k].type));
  for (size_t k = 0; k < carries.size(); k++) {
    const Tensor& value = slots[body.states[k].next];
    const bool same = value.data_ptr() == carries[k].data_ptr() && value.strides() == carries[k].strides() &&
                      value.scalar_type() == carries[k].scalar_type();
    left.next.push_back(same ? Tensor() : apart(value, carries[k].scalar_type()));
  }
  return left;
}

// Slots of a turn: its number, slices, captured values and carries.
Slots slotsOf(const Plan& body, const Sizes& n, const Tensor& turn, const std::vector<Tensor>& slices,
              const std::vector<Tensor>& captured, const std::vector<Tensor>& carries) {
  Slots slots(body.slots);
  slots[body.inputs[0].slot] = turn;
  for (size_t k = 0; k < n.slices; k++) slots[body.inputs[1 + k].slot] = slices[k];
  for (size_t k = 0; k < n.captured; k++) slots[body.inputs[1 + n.slices + k].slot] = captured[k];
  for (size_t k = 0; k < n.carries; k++) slots[body.states[k].slot] = carries[k];
  return slots;
}

// One block moves some arrays of words: `from + turn · step` to `to`, or the other way round with the step behind.
const char* kMoveSource = R"(
struct Moves {
  const char* from[MOST];
  char* to[MOST];
  long fromStep[MOST], toStep[MOST], bytes[MOST];
  int count;
};
extern "C" __global__ void __launch_bounds__(512) move(Moves m, int* turn, int advance) {
  const long at = turn[0];
  for (int k = 0; k < m.count; k++) {
    const char* from = m.from[k] + at * m.fromStep[k];
    char* to = m.to[k] + at * m.toStep[k];
    const long bytes = m.bytes[k];
    if (((unsigned long)from | (unsigned long)to | (unsigned long)bytes) % 4 == 0) {
      for (long e = threadIdx.x; e < bytes / 4; e += 512) ((int*)to)[e] = ((const int*)from)[e];
    } else {
      for (long e = threadIdx.x; e < bytes; e += 512) to[e] = from[e];
    }
  }
  __syncthreads();
  if (advance && threadIdx.x == 0) turn[0] = at + 1;
}
)";

constexpr int kMost = 32;
// More than this is moved by the library's kernels, which use the whole GPU.
constexpr int64_t kSmall = 64 * 1024;

struct Moves {
  const char* from[kMost];
  char* to[kMost];
  int64_t fromStep[kMost], toStep[kMost], bytes[kMost];
  int count = 0;
};

// What a loop keeps on the device between calls.
struct Kept {
  Tensor turn;  // [1] int32
  std::vector<Tensor> carries, captured, stacked, slices, made;
  std::vector<bool> own;  // captured and stacked values that are copied here, as they lie elsewhere at each call
  std::unique_ptr<GraphState> graph;
  bool graphs = true;
  int64_t turns = 0;  // that were run without a graph
};

struct Turn {
  const Instruction& i;
  Machine& m;
  Kept& kept;
  Sizes n;

  void moveAll(Moves& moves, bool advance) {
    if (moves.count == 0 && !advance) return;
    int* turn = kept.turn.data_ptr<int>();
    int on = advance ? 1 : 0;
    if (!m.cuda()) {
      for (int k = 0; k < moves.count; k++) {
        std::memcpy(moves.to[k] + *turn * moves.toStep[k], moves.from[k] + *turn * moves.fromStep[k], moves.bytes[k]);
      }
      *turn += on;
      moves.count = 0;
      return;
    }
    launch(compiled(kMoveSource, "move", "#define MOST " + std::to_string(kMost) + "\n", m.engine.device.index()), 1, 1, 512,
           arguments(moves, turn, on));
    moves.count = 0;
  }

  void add(Moves& moves, const Tensor& from, int64_t fromStep, const Tensor& to, int64_t toStep, int64_t bytes) {
    if (bytes == 0) return;
    if (moves.count == kMost) moveAll(moves, false);
    const int k = moves.count++;
    moves.from[k] = static_cast<const char*>(from.data_ptr());
    moves.to[k] = static_cast<char*>(to.data_ptr());
    moves.fromStep[k] = fromStep;
    moves.toStep[k] = toStep;
    moves.bytes[k] = bytes;
  }

  void run() {
    const Plan& body = *i.body;
    Moves moves;
    const Tensor& turn = kept.turn;
    for (size_t k = 0; k < n.slices; k++) {
      const int64_t bytes = kept.slices[k].nbytes();
      if (bytes <= kSmall) {
        add(moves, kept.stacked[k], bytes, kept.slices[k], 0, bytes);
      } else {
        kept.slices[k].copy_(at::index_select(kept.stacked[k], 0, turn).view(kept.slices[k].sizes()));
      }
    }
    moveAll(moves, false);
    Slots slots = slotsOf(body, n, turn, kept.slices, kept.captured, kept.carries);
    runAll(body, slots, m);
    const Left left = leftBy(body, slots, kept.carries);
    for (size_t k = 0; k < left.outputs.size(); k++) {
      const int64_t bytes = left.outputs[k].nbytes();
      if (bytes <= kSmall) {
        add(moves, left.outputs[k], 0, kept.made[k], bytes, bytes);
      } else {
        kept.made[k].index_copy_(0, turn.to(at::kLong), left.outputs[k].unsqueeze(0));
      }
    }
    for (size_t k = 0; k < n.carries; k++) {
      if (!left.next[k].defined()) continue;
      const int64_t bytes = left.next[k].nbytes();
      if (bytes <= kSmall) {
        add(moves, left.next[k], 0, kept.carries[k], 0, bytes);
      } else {
        kept.carries[k].copy_(left.next[k]);
      }
    }
    moveAll(moves, true);
  }
};

#ifdef TESSERA_CUDA
bool capturing() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  C10_CUDA_CHECK(cudaStreamIsCapturing(c10::cuda::getCurrentCUDAStream(), &status));
  return status != cudaStreamCaptureStatusNone;
}
#endif

// Bring what a call gives to where the turns look for it. A graph knows addresses: where one has changed, the old
// graph is dropped, and the value is copied to one place from now on.
void receive(const Instruction& i, Slots& s, Machine& m, Kept& kept) {
  const Plan& body = *i.body;
  const Sizes n = sizesOf(i);
  if (!kept.turn.defined()) {
    kept.turn = at::zeros({1}, optionsOf(m, at::kInt));
    kept.carries.resize(n.carries);
    kept.captured.resize(n.captured);
    kept.stacked.resize(n.slices);
    kept.own.assign(n.slices + n.captured, false);
    for (size_t k = 0; k < n.slices; k++) {
      const Spec& spec = body.inputs[1 + k].spec;
      kept.slices.push_back(at::empty(spec.shape, optionsOf(m, spec.type)));
    }
    for (size_t k = 0; k < body.outputs.size(); k++) {
      kept.made.push_back(at::empty(i.specs[n.carries + k].shape, optionsOf(m, body.outputSpecs[k].type)));
    }
  }
  for (size_t k = 0; k < n.carries; k++) {
    const Tensor& first = arg(i, s, k);
    Tensor& place = kept.carries[k];
    if (i.ints[3 + k] && first.is_contiguous()) {
      if (!place.defined() || place.data_ptr() != first.data_ptr()) kept.graph.reset();
      place = first;
    } else {
      if (!place.defined()) place = at::empty(first.sizes(), first.options());
      place.copy_(first);
    }
  }
  auto take = [&](Tensor given, Tensor& place, size_t which) {
    if (kept.own[which]) {
      place.copy_(given);
    } else if (!place.defined()) {
      place = given;  // held, so that nothing else comes to lie there
    } else if (place.data_ptr() != given.data_ptr() || place.strides() != given.strides()) {
      kept.graph.reset();
      kept.own[which] = true;
      place = given.clone();
    }
  };
  for (size_t k = 0; k < n.slices; k++) take(arg(i, s, n.carries + k).contiguous(), kept.stacked[k], k);
  for (size_t k = 0; k < n.captured; k++) take(arg(i, s, n.carries + n.slices + k), kept.captured[k], n.slices + k);
  kept.turn.zero_();
}

void scan(const Instruction& i, Slots& s, Machine& m) {
  if (!i.cache) i.cache = std::make_shared<Kept>();
  Kept& kept = *static_cast<Kept*>(i.cache.get());
  const Sizes n = sizesOf(i);
  receive(i, s, m, kept);
  Machine inside = m;
  inside.turn = true;
  Turn turn{i, inside, kept, n};
#ifdef TESSERA_CUDA
  const bool graphs = m.graph && m.cuda() && !m.profile && !capturing();
#else
  const bool graphs = false;
#endif
  for (int64_t t = 0; t < n.count; t++) {
    if (!(graphs && kept.graphs && kept.turns >= 2)) {
      turn.run();
      kept.turns += 1;
      continue;
    }
#ifdef TESSERA_CUDA
    auto capture = [&] {
      auto state = std::make_unique<GraphState>();
      state->capture([&] { turn.run(); });
      kept.graph = std::move(state);
    };
    try {
      if (!kept.graph) {
        try {
          capture();
        } catch (const std::exception&) {
          if (!stopOverlapping()) throw;
          forgetErrors();
          capture();
        }
      }
      kept.graph->graph.replay();
    } catch (const std::exception& error) {
      // Nothing of this turn has happened yet; what is wrong with a kernel shows when it is started by itself.
      std::fprintf(stderr, "warning: the CUDA graph of a loop cannot be used, its kernels are started one by one: %s\n", error.what());
      forgetErrors();
      kept.graph.reset();
      kept.graphs = false;
      turn.run();
    }
#endif
  }
  for (size_t k = 0; k < n.carries; k++) s[i.out[k]] = kept.carries[k];
  for (size_t k = 0; k < kept.made.size(); k++) s[i.out[n.carries + k]] = kept.made[k];
}

}  // namespace

void addLoops(Registry& r) { r["Scan"] = scan; }

}  // namespace tessera
