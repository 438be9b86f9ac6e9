/** The table of register tiles. */
#include "micro.h"

#include <utility>

namespace tessera {
namespace {

template <int NV, std::size_t... I>
Tile pick(int rows, std::index_sequence<I...>) {
  static constexpr Tile table[] = {&tile<static_cast<int>(I) + 1, NV>...};
  return table[rows - 1];
}

/** r[i][j] to r[j][i]. */
TESSERA_INLINE void transpose(vf* r) {
#pragma GCC unroll 8
  for (int w = VL / 2; w > 0; w /= 2) {
    vi low, high;
    for (int i = 0; i < VL; i++) {
      low[i] = (i & w) ? VL + i - w : i;
      high[i] = (i & w) ? VL + i : i + w;
    }
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) {
      if (i & w) continue;
      const vf a = r[i], b = r[i + w];
      r[i] = __builtin_shuffle(a, b, low);
      r[i + w] = __builtin_shuffle(a, b, high);
    }
  }
}

/** NR columns of one panel, of which `width` exist; columns lie in rows of b. */
void pack_turned(const float* b, i64 cb, i64 depth, i64 width, float* out) {
  for (i64 j = 0; j < NR; j += VL) {
    const i64 columns = width - j < 0 ? 0 : width - j < VL ? width - j : VL;
    i64 k = 0;
    if (columns > 0) {
      for (; k + VL <= depth; k += VL) {
        vf r[VL];
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) r[i] = i < columns ? load(b + (j + i) * cb + k) : vf{};
        transpose(r);
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) store(out + (k + i) * NR + j, r[i]);
      }
    }
    for (; k < depth; k++) {
      for (i64 i = 0; i < VL; i++) out[k * NR + j + i] = i < columns ? b[(j + i) * cb + k] : 0;
    }
  }
}

}  // namespace

void pack_panels(const float* b, i64 kb, i64 cb, i64 depth, i64 columns, float* out) {
  for (i64 at = 0; at < columns; at += NR, out += depth * NR) {
    const i64 width = columns - at < NR ? columns - at : NR;
    if (cb != 1) {
      pack_turned(b + at * cb, cb, depth, width, out);
    } else if (width == NR) {
      const float* from = b + at;
      for (i64 k = 0; k < depth; k++) {
        store(out + k * NR, load(from + k * kb));
        store(out + k * NR + VL, load(from + k * kb + VL));
      }
    } else {
      const int first = static_cast<int>(width < VL ? width : VL), second = static_cast<int>(width - first);
      for (i64 k = 0; k < depth; k++) {
        store(out + k * NR, load_part(b + at + k * kb, first));
        store(out + k * NR + VL, second > 0 ? load_part(b + at + k * kb + first, second) : vf{});
      }
    }
  }
}

Tile tile_of(int rows, int vectors) {
  return vectors == 2 ? pick<2>(rows, std::make_index_sequence<MR>{})
                      : pick<1>(rows, std::make_index_sequence<MR>{});
}

}  // namespace tessera
