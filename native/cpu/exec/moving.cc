/** Copies between strided views: transposes, slices, concatenations, tiles, padding, depth to space. */
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "program.h"

namespace tessera::exec {
namespace {

/** Two views of the same sides. */
struct Pair {
  std::vector<std::int64_t> dims, from, to;
};

/** A matrix [rows, columns] by tiles, so that neither side is read with long jumps for long. */
template <typename T>
void copy_tile(std::int64_t rows, std::int64_t columns, const T* from, std::int64_t from_row,
               std::int64_t from_column, T* to, std::int64_t to_row, std::int64_t to_column) {
  constexpr std::int64_t TILE = 16;
  for (std::int64_t r = 0; r < rows; r += TILE) {
    const std::int64_t r_end = std::min(r + TILE, rows);
    for (std::int64_t c = 0; c < columns; c += TILE) {
      const std::int64_t c_end = std::min(c + TILE, columns);
      for (std::int64_t i = r; i < r_end; i++) {
        const T* source = from + i * from_row + c * from_column;
        T* target = to + i * to_row + c * to_column;
        for (std::int64_t j = c; j < c_end; j++, source += from_column, target += to_column) {
          *target = *source;
        }
      }
    }
  }
}

template <typename T>
void copy_row(std::int64_t n, const T* from, std::int64_t from_step, T* to, std::int64_t to_step) {
  if (from_step == 1 && to_step == 1) {
    std::memcpy(to, from, n * sizeof(T));
  } else if (from_step == 0 && to_step == 1) {
    std::fill(to, to + n, *from);
  } else {
    for (std::int64_t i = 0; i < n; i++) {
      to[i * to_step] = from[i * from_step];
    }
  }
}

/** Offsets of a position of the outer axes. */
struct Offsets {
  std::int64_t from = 0, to = 0;
};
Offsets offsets_of(const Pair& pair, int outer, std::int64_t position) {
  Offsets found;
  for (int axis = outer - 1; axis >= 0; axis--) {
    const std::int64_t index = position % pair.dims[axis];
    position /= pair.dims[axis];
    found.from += index * pair.from[axis];
    found.to += index * pair.to[axis];
  }
  return found;
}

std::int64_t product(const std::vector<std::int64_t>& sides, int count) {
  std::int64_t total = 1;
  for (int i = 0; i < count; i++) {
    total *= sides[i];
  }
  return total;
}

template <typename T>
void copy_views(const Pair& pair, const T* from, T* to) {
  const int rank = static_cast<int>(pair.dims.size());
  if (rank == 0) {
    *to = *from;
    return;
  }
  const std::int64_t columns = pair.dims[rank - 1];
  const bool tiled = rank >= 2 && pair.from[rank - 1] != 1 && pair.from[rank - 1] != 0 &&
                     pair.dims[rank - 2] > 1;
  const int inner = tiled ? 2 : 1;
  const int outer = rank - inner;
  const std::int64_t pieces = product(pair.dims, outer);
  const std::int64_t size = columns * (tiled ? pair.dims[rank - 2] : 1);
  // One long row is cut up, so that all threads have a part.
  if (pieces == 1 && !tiled && columns > 65536) {
    parallel_for(columns, 32768, [&](i64 begin, i64 end, int) {
      copy_row(end - begin, from + begin * pair.from[rank - 1], pair.from[rank - 1],
               to + begin * pair.to[rank - 1], pair.to[rank - 1]);
    });
    return;
  }
  const auto part = [&](i64 begin, i64 end, int) {
    for (i64 piece = begin; piece < end; piece++) {
      const Offsets at = offsets_of(pair, outer, piece);
      if (tiled) {
        copy_tile(pair.dims[rank - 2], columns, from + at.from, pair.from[rank - 2],
                  pair.from[rank - 1], to + at.to, pair.to[rank - 2], pair.to[rank - 1]);
      } else {
        copy_row(columns, from + at.from, pair.from[rank - 1], to + at.to, pair.to[rank - 1]);
      }
    }
  };
  const i64 grain = std::max<i64>(1, 32768 / std::max<i64>(1, size));
  if (pieces <= grain) {
    part(0, pieces, 0);
  } else {
    parallel_for(pieces, grain, part);
  }
}

/** Integers: bytes an element (1 or 4), rank, sides, strides of the source, strides of the target. */
Step copy(Spec& spec) {
  const std::int64_t width = spec.next();
  const std::int64_t rank = spec.next();
  Pair pair;
  pair.dims = spec.take(rank);
  pair.from = spec.take(rank);
  pair.to = spec.take(rank);
  return [spec, pair, width](const Run& run) {
    if (width == 4) {
      copy_views(pair, run.at<std::int32_t>(spec.inputs[0]), run.at<std::int32_t>(spec.outputs[0]));
    } else {
      copy_views(pair, run.at<std::uint8_t>(spec.inputs[0]), run.at<std::uint8_t>(spec.outputs[0]));
    }
  };
}

/** Integers: element (0 float32, 1 int32, 2 bool), rank, sides, strides. Number: the value. */
Step fill(Spec& spec) {
  const std::int64_t element = spec.next();
  const std::int64_t rank = spec.next();
  Pair pair;
  pair.dims = spec.take(rank);
  pair.to = spec.take(rank);
  pair.from.assign(rank, 0);
  const double value = spec.number();
  return [spec, pair, element, value](const Run& run) {
    if (element == 0) {
      const float x = static_cast<float>(value);
      copy_views(pair, &x, run.floats(spec.outputs[0]));
    } else if (element == 1) {
      const std::int32_t x = static_cast<std::int32_t>(value);
      copy_views(pair, &x, run.at<std::int32_t>(spec.outputs[0]));
    } else {
      const std::uint8_t x = value != 0;
      copy_views(pair, &x, run.at<std::uint8_t>(spec.outputs[0]));
    }
  };
}

}  // namespace

std::vector<StepKind> moving_steps() { return {{"Copy", copy}, {"Fill", fill}}; }

}  // namespace tessera::exec
