// CUDA C++ compiled while the program runs, by NVRTC, and kept by its text. Both libraries are opened by
// name: PyTorch for CUDA brings NVRTC along, the driver brings libcuda.
#pragma once

#include <string>
#include <vector>

#include "plan.h"

namespace tessera {

struct CompiledKernel;

// The kernel called `name` of a source. `defines` go in front of it.
const CompiledKernel* compiled(const std::string& source, const std::string& name, const std::string& defines, int device);

// What kernels written by hand begin with: types, conversions, and sums over a block.
extern const char* const kPrelude;

template <typename... T>
std::vector<void*> arguments(T&... values) {
  return {static_cast<void*>(&values)...};
}

// What is wrong with a launch's sizes: "" where nothing is. The driver says no more than "invalid argument".
std::string launchFault(int64_t gridX, int64_t gridY, int64_t block, int64_t sharedBytes);

// Start it on the current stream. What it throws names the kernel and its sizes.
void launch(const CompiledKernel* kernel, int64_t gridX, int64_t gridY, int64_t block, std::vector<void*> arguments,
            int64_t sharedBytes = 0, bool overlap = false);

// A kernel started with `overlap` may begin while those before it still run (Hopper's programmatic dependent launch):
// until its `predecessors()` it may read nothing that any kernel of this turn writes. Only with TESSERA_OVERLAP=1: the
// one time it was measured decoding took a tenth longer with it. Off where it does not work. Returns whether it was on.
bool stopOverlapping();

}  // namespace tessera
