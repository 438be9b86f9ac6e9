/** What the kernels' files share, not part of the interface. */
#pragma once

#include <cmath>

#include "kernels.h"
#include "simd.h"

namespace tessera {

constexpr int kScratchSlots = 8;

/** A thread's own scratch: 4096-byte aligned, contents undefined, valid until asked for again. */
float* thread_scratch(int thread, int slot, i64 floats);
/** Scratch that all threads see; ask for it outside of parallel_for. */
float* shared_scratch(int slot, i64 floats);

/** Is this a call from inside of parallel_for, and on which thread? */
bool in_parallel();
int current_thread();

inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
inline i64 round_up(i64 a, i64 b) { return ceil_div(a, b) * b; }

}  // namespace tessera
