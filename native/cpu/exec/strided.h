/** Reading arrays through strides: broadcast, sliced and transposed operands. */
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace tessera::exec {

/** Row-major positions of `dims` mapped to elements by `strides` (0 repeats, negative reverses). */
struct Strided {
  std::vector<std::int64_t> dims, strides;

  std::int64_t size() const {
    std::int64_t product = 1;
    for (const std::int64_t side : dims) {
      product *= side;
    }
    return product;
  }
};

/**
 * Calls run(element, position, length) for pieces of the innermost axis that cover positions
 * [begin, end); `element` is the offset of a piece's first element, `position` counts from begin.
 */
template <typename F>
void for_each_run(const Strided& view, std::int64_t begin, std::int64_t end, F&& run) {
  const int rank = static_cast<int>(view.dims.size());
  if (rank == 0) {
    if (end > begin) {
      run(std::int64_t{0}, std::int64_t{0}, std::int64_t{1});
    }
    return;
  }
  std::int64_t index[16];
  std::int64_t rest = begin;
  std::int64_t element = 0;
  for (int axis = rank - 1; axis >= 0; axis--) {
    index[axis] = rest % view.dims[axis];
    rest /= view.dims[axis];
    element += index[axis] * view.strides[axis];
  }
  const int last = rank - 1;
  for (std::int64_t position = begin; position < end;) {
    const std::int64_t left = view.dims[last] - index[last];
    const std::int64_t length = left < end - position ? left : end - position;
    run(element, position - begin, length);
    position += length;
    element += length * view.strides[last];
    index[last] += length;
    for (int axis = last; axis > 0 && index[axis] == view.dims[axis]; axis--) {
      element -= view.dims[axis] * view.strides[axis];
      index[axis] = 0;
      index[axis - 1]++;
      element += view.strides[axis - 1];
    }
  }
}

/** Values [begin, end) of a view, one after the other. */
template <typename T>
void gather_view(const Strided& view, const T* from, std::int64_t begin, std::int64_t end, T* to) {
  const std::int64_t step = view.dims.empty() ? 1 : view.strides.back();
  for_each_run(view, begin, end, [&](std::int64_t element, std::int64_t at, std::int64_t length) {
    const T* source = from + element;
    T* target = to + at;
    if (step == 1) {
      std::memcpy(target, source, length * sizeof(T));
    } else if (step == 0) {
      const T value = *source;
      for (std::int64_t i = 0; i < length; i++) {
        target[i] = value;
      }
    } else {
      for (std::int64_t i = 0; i < length; i++) {
        target[i] = source[i * step];
      }
    }
  });
}

}  // namespace tessera::exec
