/** The step that runs another program several times, each turn with what the last one left. */
#include <algorithm>
#include <cstring>
#include <utility>

#include "program.h"

namespace tessera::exec {
namespace {

struct Carry {
  std::int64_t bytes = 0;
  bool in_place = false;  // the body writes the next value over the old one
};

/**
 * Inputs: what is given slice by slice, what is the same in every turn, first carries. Outputs: last carries,
 * outputs of all turns, and a second buffer for each carry that is not written in place.
 * Integers: turns, slices, fixed inputs, carries, outputs; bytes of each slice; bytes of each carry and
 * whether it is written in place; bytes of each output of a turn.
 */
Step scan_step(Spec& spec) {
  const i64 count = spec.next(), slices = spec.next(), fixed = spec.next(), carries = spec.next(),
            outputs = spec.next();
  const std::vector<std::int64_t> slice_bytes = spec.take(slices);
  std::vector<Carry> kinds(carries);
  for (Carry& kind : kinds) {
    kind.bytes = spec.next();
    kind.in_place = spec.next() != 0;
  }
  const std::vector<std::int64_t> output_bytes = spec.take(outputs);
  return [=](const Run& run) {
    std::int32_t index = 0;
    Arrays arrays;
    arrays.inputs.push_back(reinterpret_cast<char*>(&index));
    for (i64 i = 0; i < slices + fixed; i++) {
      arrays.inputs.push_back(run.at<char>(spec.inputs[i]));
    }
    for (i64 i = 0; i < outputs; i++) {
      arrays.outputs.push_back(run.at<char>(spec.outputs[carries + i]));
    }
    std::vector<char*> other(carries, nullptr);
    i64 second = carries + outputs;
    for (i64 c = 0; c < carries; c++) {
      char* first = run.at<char>(spec.inputs[slices + fixed + c]);
      char* last = run.at<char>(spec.outputs[c]);
      if (kinds[c].in_place) {
        if (first != last) {
          std::memcpy(last, first, kinds[c].bytes);
        }
        arrays.states.push_back(last);
        arrays.nexts.push_back(nullptr);
        continue;
      }
      // Two buffers take turns so that the last turn writes the result's own.
      other[c] = run.at<char>(spec.outputs[second++]);
      char* target = count % 2 == 1 ? last : other[c];
      if (first == target) {
        std::memcpy(other[c], first, kinds[c].bytes);
        first = other[c];
      }
      arrays.states.push_back(first);
      arrays.nexts.push_back(target);
    }
    for (i64 turn = 0; turn < count; turn++) {
      index = static_cast<std::int32_t>(turn);
      spec.body->pass(arrays);
      for (i64 i = 0; i < slices; i++) {
        arrays.inputs[1 + i] += slice_bytes[i];
      }
      for (i64 i = 0; i < outputs; i++) {
        arrays.outputs[i] += output_bytes[i];
      }
      for (i64 c = 0; c < carries; c++) {
        if (!kinds[c].in_place) {
          char* last = run.at<char>(spec.outputs[c]);
          arrays.states[c] = arrays.nexts[c];
          arrays.nexts[c] = arrays.states[c] == last ? other[c] : last;
        }
      }
    }
  };
}

}  // namespace

std::vector<StepKind> loop_steps() { return {{"Scan", scan_step, true}}; }

}  // namespace tessera::exec
