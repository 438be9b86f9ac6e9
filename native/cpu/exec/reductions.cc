/** Reductions and scans over one axis: x [outer, n, inner]. Several axes are several steps. */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "program.h"

namespace tessera::exec {
namespace {

using I32 = std::int32_t;
using U8 = std::uint8_t;

/** Values a piece: sums of longer axes are sums of pieces, in an order that threads do not change. */
constexpr i64 PIECE = 4096;

struct Sum {
  template <typename T>
  static T start() {
    return T(0);
  }
  template <typename T>
  static T join(T a, T b) {
    return a + b;
  }
};
struct Product {
  template <typename T>
  static T start() {
    return T(1);
  }
  template <typename T>
  static T join(T a, T b) {
    return a * b;
  }
};
struct Maximum {
  template <typename T>
  static T start() {
    return std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity()
                                                : std::numeric_limits<T>::lowest();
  }
  template <typename T>
  static T join(T a, T b) {
    return a != a ? a : b != b ? b : a > b ? a : b;
  }
};
struct Minimum {
  template <typename T>
  static T start() {
    return std::numeric_limits<T>::has_infinity ? std::numeric_limits<T>::infinity()
                                                : std::numeric_limits<T>::max();
  }
  template <typename T>
  static T join(T a, T b) {
    return a != a ? a : b != b ? b : a < b ? a : b;
  }
};

template <typename F, typename T>
T reduce_row(const T* x, i64 n) {
  T lanes[16];
  std::fill(lanes, lanes + 16, F::template start<T>());
  i64 i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int k = 0; k < 16; k++) {
      lanes[k] = F::join(lanes[k], x[i + k]);
    }
  }
  for (int width = 8; width > 0; width /= 2) {
    for (int k = 0; k < width; k++) {
      lanes[k] = F::join(lanes[k], lanes[k + width]);
    }
  }
  for (; i < n; i++) {
    lanes[0] = F::join(lanes[0], x[i]);
  }
  return lanes[0];
}

/** Rows of one position each: pieces of a row, then the pieces. */
template <typename F, typename T>
void reduce_rows(i64 outer, i64 n, const T* x, T* y) {
  const i64 pieces = std::max<i64>(1, (n + PIECE - 1) / PIECE);
  std::vector<T> partial(pieces > 1 ? outer * pieces : 0);
  T* to = pieces > 1 ? partial.data() : y;
  const auto part = [&](i64 begin, i64 end, int) {
    for (i64 at = begin; at < end; at++) {
      const i64 first = at % pieces * PIECE;
      to[at] = reduce_row<F>(x + at / pieces * n + first, std::min(PIECE, n - first));
    }
  };
  const i64 grain = std::max<i64>(1, 16384 / std::max<i64>(1, std::min(n, PIECE)));
  outer * pieces <= grain ? part(0, outer * pieces, 0) : parallel_for(outer * pieces, grain, part);
  for (i64 o = 0; pieces > 1 && o < outer; o++) {
    y[o] = reduce_row<F>(partial.data() + o * pieces, pieces);
  }
}

/** Columns: runs of the inner axis are accumulated row after row. */
template <typename F, typename T>
void reduce_columns(i64 outer, i64 n, i64 inner, const T* x, T* y) {
  // Long and thin: pieces of rows, then the pieces. `outer` has no say: a sum depends on its own values.
  constexpr i64 ROWS = 512;
  if (inner < 2048 && n >= 2 * ROWS) {
    const i64 pieces = (n + ROWS - 1) / ROWS;
    std::vector<T> partial(outer * pieces * inner);
    parallel_for(outer * pieces, 1, [&](i64 begin, i64 end, int) {
      for (i64 at = begin; at < end; at++) {
        const i64 first = at % pieces * ROWS;
        T* sum = partial.data() + at * inner;
        std::fill(sum, sum + inner, F::template start<T>());
        for (i64 r = first; r < std::min(first + ROWS, n); r++) {
          const T* row = x + (at / pieces * n + r) * inner;
#pragma GCC ivdep
          for (i64 i = 0; i < inner; i++) {
            sum[i] = F::join(sum[i], row[i]);
          }
        }
      }
    });
    reduce_columns<F>(outer, pieces, inner, partial.data(), y);
    return;
  }
  constexpr i64 WIDTH = 256;
  const i64 strips = (inner + WIDTH - 1) / WIDTH;
  const auto part = [&](i64 begin, i64 end, int) {
    for (i64 at = begin; at < end; at++) {
      const i64 first = at % strips * WIDTH, o = at / strips;
      const i64 width = std::min(WIDTH, inner - first);
      T* sum = y + o * inner + first;
      std::fill(sum, sum + width, F::template start<T>());
      for (i64 r = 0; r < n; r++) {
        const T* row = x + (o * n + r) * inner + first;
#pragma GCC ivdep
        for (i64 i = 0; i < width; i++) {
          sum[i] = F::join(sum[i], row[i]);
        }
      }
    }
  };
  const i64 grain = std::max<i64>(1, 16384 / std::max<i64>(1, n * std::min(inner, WIDTH)));
  outer * strips <= grain ? part(0, outer * strips, 0) : parallel_for(outer * strips, grain, part);
}

template <typename F, typename T>
void reduce(i64 outer, i64 n, i64 inner, const T* x, T* y) {
  if (inner == 1) {
    reduce_rows<F>(outer, n, x, y);
  } else {
    reduce_columns<F>(outer, n, inner, x, y);
  }
}

template <typename T>
void reduce_by(i64 kind, i64 outer, i64 n, i64 inner, const T* x, T* y) {
  switch (kind) {
    case 0:
      return reduce<Sum>(outer, n, inner, x, y);
    case 1:
      return reduce<Product>(outer, n, inner, x, y);
    case 2:
      return reduce<Maximum>(outer, n, inner, x, y);
    default:
      return reduce<Minimum>(outer, n, inner, x, y);
  }
}

/**
 * Integers: kind (0 sum, 1 product, 2 maximum, 3 minimum), element (0 float32, 1 int32, 2 bool), outer,
 * n, inner. Number: a factor of float32 results.
 */
Step reduction(Spec& spec) {
  const i64 kind = spec.next(), element = spec.next(), outer = spec.next(), n = spec.next(),
            inner = spec.next();
  const float factor = static_cast<float>(spec.number());
  return [=](const Run& run) {
    if (element == 0) {
      float* y = run.floats(spec.outputs[0]);
      reduce_by(kind, outer, n, inner, run.floats(spec.inputs[0]), y);
      for (i64 i = 0; factor != 1.0f && i < outer * inner; i++) {
        y[i] *= factor;
      }
    } else if (element == 1) {
      reduce_by(kind, outer, n, inner, run.at<I32>(spec.inputs[0]), run.at<I32>(spec.outputs[0]));
    } else {
      reduce_by(kind, outer, n, inner, run.at<U8>(spec.inputs[0]), run.at<U8>(spec.outputs[0]));
    }
  };
}

template <typename T>
void arg(bool largest, i64 outer, i64 n, i64 inner, const T* x, I32* y) {
  const auto part = [&](i64 begin, i64 end, int) {
    for (i64 at = begin; at < end; at++) {
      const T* column = x + at / inner * n * inner + at % inner;
      I32 best = 0;
      for (i64 i = 1; i < n; i++) {
        const T value = column[i * inner], held = column[best * inner];
        if (largest ? value > held : value < held) {
          best = static_cast<I32>(i);
        }
      }
      y[at] = best;
    }
  };
  const i64 grain = std::max<i64>(1, 16384 / std::max<i64>(1, n));
  outer * inner <= grain ? part(0, outer * inner, 0) : parallel_for(outer * inner, grain, part);
}

/** Integers: 1 for the largest, element, outer, n, inner. */
Step arg_reduction(Spec& spec) {
  const i64 largest = spec.next(), element = spec.next(), outer = spec.next(), n = spec.next(),
            inner = spec.next();
  return [=](const Run& run) {
    I32* y = run.at<I32>(spec.outputs[0]);
    if (element == 0) {
      arg(largest != 0, outer, n, inner, run.floats(spec.inputs[0]), y);
    } else if (element == 1) {
      arg(largest != 0, outer, n, inner, run.at<I32>(spec.inputs[0]), y);
    } else {
      arg(largest != 0, outer, n, inner, run.at<U8>(spec.inputs[0]), y);
    }
  };
}

template <typename F, typename T>
void scan(bool exclusive, bool reverse, i64 outer, i64 n, i64 inner, const T* x, T* y) {
  const auto part = [&](i64 begin, i64 end, int) {
    for (i64 at = begin; at < end; at++) {
      const i64 base = at / inner * n * inner + at % inner;
      T total = F::template start<T>();
      for (i64 i = 0; i < n; i++) {
        const i64 place = base + (reverse ? n - 1 - i : i) * inner;
        const T joined = F::join(total, x[place]);
        y[place] = exclusive ? total : joined;
        total = joined;
      }
    }
  };
  const i64 grain = std::max<i64>(1, 16384 / std::max<i64>(1, n));
  outer * inner <= grain ? part(0, outer * inner, 0) : parallel_for(outer * inner, grain, part);
}

/** Integers: kind (0 sum, 1 product), is int32, exclusive, reverse, outer, n, inner. */
Step cumulative(Spec& spec) {
  const i64 kind = spec.next(), whole = spec.next(), exclusive = spec.next(),
            reverse = spec.next(), outer = spec.next(), n = spec.next(), inner = spec.next();
  return [=](const Run& run) {
    const bool e = exclusive != 0, r = reverse != 0;
    if (whole != 0) {
      const I32* x = run.at<I32>(spec.inputs[0]);
      I32* y = run.at<I32>(spec.outputs[0]);
      kind == 0 ? scan<Sum>(e, r, outer, n, inner, x, y)
                : scan<Product>(e, r, outer, n, inner, x, y);
    } else {
      const float* x = run.floats(spec.inputs[0]);
      float* y = run.floats(spec.outputs[0]);
      kind == 0 ? scan<Sum>(e, r, outer, n, inner, x, y)
                : scan<Product>(e, r, outer, n, inner, x, y);
    }
  };
}

}  // namespace

std::vector<StepKind> reduction_steps() {
  return {{"Reduce", reduction}, {"Arg", arg_reduction}, {"Cumulative", cumulative}};
}

}  // namespace tessera::exec
