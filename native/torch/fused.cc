// Groups of element-wise instructions: one kernel each, its source written by src/runtime/torch/cuda-source.ts.
#include "kernel_cache.h"

namespace tessera {
namespace {

using at::Tensor;

// ints: elements, elements a thread, then for each output the input whose memory it takes over, or -1.
void fused(const Instruction& i, Slots& s, Machine& m) {
  const int64_t count = i.ints[0], width = i.ints[1];
  if (!i.cache) {
    i.cache = std::shared_ptr<void>(const_cast<CompiledKernel*>(compiled(i.text, "fused", "", m.engine.device.index())),
                                    [](void*) {});
  }
  std::vector<Tensor> held;
  std::vector<void*> pointers;
  for (size_t k = 0; k < i.in.size(); k++) {
    Tensor x = arg(i, s, k).contiguous();
    // Several elements are read at once: a view that starts in between is copied.
    if (reinterpret_cast<uintptr_t>(x.data_ptr()) % (width * x.element_size()) != 0) x = x.clone();
    held.push_back(x);
  }
  for (size_t k = 0; k < i.out.size(); k++) {
    const int64_t over = i.ints.size() > 2 + k ? i.ints[2 + k] : -1;
    Tensor y = over >= 0 ? held[over].view(i.specs[k].shape)
                         : at::empty(i.specs[k].shape, at::TensorOptions().device(m.engine.device).dtype(i.specs[k].type));
    held.push_back(y);
    s[i.out[k]] = y;
  }
  for (const Tensor& t : held) pointers.push_back(t.data_ptr());
  std::vector<void*> arguments;
  for (auto& p : pointers) arguments.push_back(&p);
  const int64_t threads = (count + width - 1) / width;
  const int64_t block = threads >= 256 ? 256 : 32 * ((threads + 31) / 32);
  launch(static_cast<const CompiledKernel*>(i.cache.get()), (threads + block - 1) / block, 1, block,
         arguments);
}

}  // namespace

void addFused(Registry& r) { r["Fused"] = fused; }

}  // namespace tessera
