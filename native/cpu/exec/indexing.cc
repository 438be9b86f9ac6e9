/** Steps that look up, place, add or order values by index. */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "program.h"

namespace tessera::exec {
namespace {

using I32 = std::int32_t;

/**
 * Rows by index: x [batch, outer, axis, inner], ids [batch, count] to [batch, outer, count, inner].
 * An id outside of the axis gives zeros. Integers: bytes an element, batch, outer, axis, inner, count.
 */
Step gather(Spec& spec) {
  const i64 width = spec.next(), batch = spec.next(), outer = spec.next(), axis = spec.next(),
            inner = spec.next(), count = spec.next();
  return [=](const Run& run) {
    const char* x = run.at<char>(spec.inputs[0]);
    const I32* ids = run.at<I32>(spec.inputs[1]);
    char* y = run.at<char>(spec.outputs[0]);
    const i64 row = inner * width;
    const auto part = [&](i64 begin, i64 end, int) {
      for (i64 at = begin; at < end; at++) {
        const i64 b = at / (outer * count), o = at / count % outer;
        const I32 id = ids[b * count + at % count];
        char* to = y + at * row;
        if (id < 0 || id >= axis) {
          std::memset(to, 0, row);
        } else {
          std::memcpy(to, x + ((b * outer + o) * axis + id) * row, row);
        }
      }
    };
    const i64 total = batch * outer * count;
    const i64 grain = std::max<i64>(1, 65536 / std::max<i64>(1, row));
    total <= grain ? part(0, total, 0) : parallel_for(total, grain, part);
  };
}

/** Offsets of index tuples; -1 where one is out of range. Integers: depth, sides of the indexed axes. */
struct Places {
  std::vector<std::int64_t> sides;
  i64 operator()(const I32* tuple) const {
    i64 at = 0;
    for (std::size_t d = 0; d < sides.size(); d++) {
      if (tuple[d] < 0 || tuple[d] >= sides[d]) {
        return -1;
      }
      at = at * sides[d] + tuple[d];
    }
    return at;
  }
};

/** Integers: bytes an element, tuples, values a tuple, depth, sides. */
Step gather_nd(Spec& spec) {
  const i64 width = spec.next(), tuples = spec.next(), inner = spec.next(), depth = spec.next();
  const Places places{spec.take(depth)};
  return [=](const Run& run) {
    const char* x = run.at<char>(spec.inputs[0]);
    const I32* indices = run.at<I32>(spec.inputs[1]);
    char* y = run.at<char>(spec.outputs[0]);
    for (i64 t = 0; t < tuples; t++) {
      const i64 at = places(indices + t * depth);
      const i64 row = inner * width;
      at < 0 ? void(std::memset(y + t * row, 0, row))
             : void(std::memcpy(y + t * row, x + at * row, row));
    }
  };
}

template <typename T>
void add_rows(const Places& places, i64 tuples, i64 inner, i64 total, const I32* indices,
              const T* updates, T* y) {
  std::fill(y, y + total, T(0));
  const i64 depth = static_cast<i64>(places.sides.size());
  for (i64 t = 0; t < tuples; t++) {
    const i64 at = places(indices + t * depth);
    for (i64 i = 0; at >= 0 && i < inner; i++) {
      y[at * inner + i] += updates[t * inner + i];
    }
  }
}

/** Updates of one place add up, in order. Integers: is int32, tuples, inner, total values, depth, sides. */
Step scatter_nd(Spec& spec) {
  const i64 whole = spec.next(), tuples = spec.next(), inner = spec.next(), total = spec.next(),
            depth = spec.next();
  const Places places{spec.take(depth)};
  return [=](const Run& run) {
    const I32* indices = run.at<I32>(spec.inputs[0]);
    if (whole != 0) {
      add_rows(places, tuples, inner, total, indices, run.at<I32>(spec.inputs[1]),
               run.at<I32>(spec.outputs[0]));
    } else {
      add_rows(places, tuples, inner, total, indices, run.floats(spec.inputs[1]),
               run.floats(spec.outputs[0]));
    }
  };
}

/**
 * Replaces values at index tuples in a copy of x, or in place where both are one buffer.
 * Integers: tuples, inner, total values, depth, sides.
 */
Step scatter_update(Spec& spec) {
  const i64 tuples = spec.next(), inner = spec.next(), total = spec.next(), depth = spec.next();
  const Places places{spec.take(depth)};
  return [=](const Run& run) {
    const float* x = run.floats(spec.inputs[0]);
    const I32* indices = run.at<I32>(spec.inputs[1]);
    const float* updates = run.floats(spec.inputs[2]);
    float* y = run.floats(spec.outputs[0]);
    if (x != y) {
      std::memcpy(y, x, total * sizeof(float));
    }
    for (i64 t = 0; t < tuples; t++) {
      const i64 at = places(indices + t * depth);
      if (at >= 0) {
        std::memcpy(y + at * inner, updates + t * inner, inner * sizeof(float));
      }
    }
  };
}

/**
 * Writes `rows` rows at a position of the second but last axis: cache [outer, places, inner], given
 * [outer, rows, inner]. The position is a tensor; rows beyond the end are left out.
 * In place where both are one buffer. Integers: outer, places, inner, rows.
 */
Step cache_write(Spec& spec) {
  const i64 outer = spec.next(), places = spec.next(), inner = spec.next(), rows = spec.next();
  return [=](const Run& run) {
    const float* cache = run.floats(spec.inputs[0]);
    const float* given = run.floats(spec.inputs[1]);
    const i64 first = *run.at<I32>(spec.inputs[2]);
    float* y = run.floats(spec.outputs[0]);
    if (cache != y) {
      std::memcpy(y, cache, outer * places * inner * sizeof(float));
    }
    for (i64 o = 0; o < outer; o++) {
      for (i64 r = 0; r < rows; r++) {
        const i64 place = first + r;
        if (place >= 0 && place < places) {
          std::memcpy(y + (o * places + place) * inner, given + (o * rows + r) * inner,
                      inner * sizeof(float));
        }
      }
    }
  };
}

template <typename T>
void hot(i64 count, i64 depth, T on, T off, const I32* ids, T* y) {
  std::fill(y, y + count * depth, off);
  for (i64 i = 0; i < count; i++) {
    if (ids[i] >= 0 && ids[i] < depth) {
      y[i * depth + ids[i]] = on;
    }
  }
}

/** Integers: element (0 float32, 1 int32, 2 bool), ids, depth. Numbers: on, off. */
Step one_hot(Spec& spec) {
  const i64 element = spec.next(), count = spec.next(), depth = spec.next();
  const double on = spec.number(), off = spec.number();
  return [=](const Run& run) {
    const I32* ids = run.at<I32>(spec.inputs[0]);
    if (element == 0) {
      hot<float>(count, depth, on, off, ids, run.floats(spec.outputs[0]));
    } else if (element == 1) {
      hot<I32>(count, depth, on, off, ids, run.at<I32>(spec.outputs[0]));
    } else {
      hot<std::uint8_t>(count, depth, on != 0, off != 0, ids,
                        run.at<std::uint8_t>(spec.outputs[0]));
    }
  };
}

/**
 * Rows added by segment: x [rows, inner], ids [rows] to [segments, inner]; each segment adds its rows in
 * order, so the threads change nothing. Integers: rows, inner, segments.
 */
Step segment_sum(Spec& spec) {
  const i64 rows = spec.next(), inner = spec.next(), segments = spec.next();
  return [=](const Run& run) {
    const float* x = run.floats(spec.inputs[0]);
    const I32* ids = run.at<I32>(spec.inputs[1]);
    float* y = run.floats(spec.outputs[0]);
    std::vector<I32> starts(segments + 1, 0);
    for (i64 r = 0; r < rows; r++) {
      if (ids[r] >= 0 && ids[r] < segments) {
        starts[ids[r] + 1]++;
      }
    }
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<I32> order(starts.back());
    std::vector<I32> fill(starts.begin(), starts.end() - 1);
    for (i64 r = 0; r < rows; r++) {
      if (ids[r] >= 0 && ids[r] < segments) {
        order[fill[ids[r]]++] = static_cast<I32>(r);
      }
    }
    const auto part = [&](i64 begin, i64 end, int) {
      for (i64 s = begin; s < end; s++) {
        float* sum = y + s * inner;
        std::fill(sum, sum + inner, 0.0f);
        for (I32 k = starts[s]; k < starts[s + 1]; k++) {
          const float* row = x + static_cast<i64>(order[k]) * inner;
#pragma GCC ivdep
          for (i64 i = 0; i < inner; i++) {
            sum[i] += row[i];
          }
        }
      }
    };
    const i64 grain = std::max<i64>(1, 16384 / std::max<i64>(1, inner));
    segments <= grain ? part(0, segments, 0) : parallel_for(segments, grain, part);
  };
}

template <typename T>
void largest(i64 rows, i64 n, i64 k, const T* x, T* values, I32* indices) {
  std::vector<I32> order(n);
  for (i64 r = 0; r < rows; r++) {
    const T* row = x + r * n;
    std::iota(order.begin(), order.end(), 0);
    // Ties: the lower index first. NaN counts as the smallest.
    const auto before = [&](I32 a, I32 b) {
      if (row[a] != row[b]) {
        return row[a] == row[a] && (row[b] != row[b] || row[a] > row[b]);
      }
      return a < b;
    };
    std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
    for (i64 i = 0; i < k; i++) {
      indices[r * k + i] = order[i];
      values[r * k + i] = row[order[i]];
    }
  }
}

/** The k largest of each row, in order. Integers: is int32, rows, n, k. */
Step top_k(Spec& spec) {
  const i64 whole = spec.next(), rows = spec.next(), n = spec.next(), k = spec.next();
  return [=](const Run& run) {
    const auto part = [&](i64 begin, i64 end, int) {
      I32* indices = run.at<I32>(spec.outputs[1]) + begin * k;
      if (whole != 0) {
        largest(end - begin, n, k, run.at<I32>(spec.inputs[0]) + begin * n,
                run.at<I32>(spec.outputs[0]) + begin * k, indices);
      } else {
        largest(end - begin, n, k, run.floats(spec.inputs[0]) + begin * n,
                run.floats(spec.outputs[0]) + begin * k, indices);
      }
    };
    const i64 grain = std::max<i64>(1, 16384 / std::max<i64>(1, n));
    rows <= grain ? part(0, rows, 0) : parallel_for(rows, grain, part);
  };
}

}  // namespace

std::vector<StepKind> indexing_steps() {
  return {{"Gather", gather},
          {"GatherNd", gather_nd},
          {"ScatterNd", scatter_nd},
          {"ScatterUpdate", scatter_update},
          {"CacheWrite", cache_write},
          {"OneHot", one_hot},
          {"SegmentSum", segment_sum},
          {"TopK", top_k}};
}

}  // namespace tessera::exec
