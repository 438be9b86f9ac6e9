// A captured CUDA graph.
#pragma once

#include <ATen/cuda/CUDAGraph.h>
#include <cuda_runtime_api.h>

namespace tessera {

struct GraphState {
  at::cuda::CUDAGraph graph;

  // Capture what `steps` starts on the current stream. What is wrong in it is thrown after the capture has ended.
  template <typename F>
  void capture(F steps) {
    graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      steps();
    } catch (...) {
      try {
        graph.capture_end();
      } catch (...) {
      }
      throw;
    }
    graph.capture_end();
  }
};

}  // namespace tessera
