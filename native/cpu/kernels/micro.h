/**
 * The register tiles that all products run on: up to MR rows by NV vectors of a result, a sum over k
 * of a broadcast value times NV vectors. Sums over k run in order, so a result does not depend on how
 * rows are cut into tiles.
 */
#pragma once

#include "internal.h"

namespace tessera {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int MR = 14;  // 28 accumulators, 2 vectors of b and a broadcast in 32 registers
#else
constexpr int MR = 6;
#endif
constexpr int NR = 2 * VL;

/** What a tile does with its sums. */
enum class Store { set, add };

/**
 * c[r][·] (+)= sum_k a(r, k) b[k][·] for ROWS rows and NV vectors. a(r, k) is a[r · ra + k · ka].
 */
template <int ROWS, int NV>
__attribute__((noinline)) void tile(i64 depth, const float* a, i64 ra, i64 ka, const float* b, i64 ldb,
                                    float* c, i64 ldc, Store how) {
  vf acc[ROWS][NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[r][v] = vf{};
  }
  for (i64 k = 0; k < depth; k++) {
    vf w[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) w[v] = load(b + v * VL);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
      const vf value = set1(a[r * ra]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) acc[r][v] = fma(value, w[v], acc[r][v]);
    }
    a += ka;
    b += ldb;
  }
  if (how == Store::add) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) acc[r][v] += load(c + r * ldc + v * VL);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) store(c + r * ldc + v * VL, acc[r][v]);
  }
}

using Tile = void (*)(i64, const float*, i64, i64, const float*, i64, float*, i64, Store);

/** The tile of `rows` rows (1 to MR) and `vectors` vectors (1 or 2). */
Tile tile_of(int rows, int vectors);

/**
 * A block: `rows` × `vectors`·VL results, cut into tiles of nearly equal height.
 * b is [panels][depth][NR]: panels of two vectors, the last one of one where vectors is odd; `panel` is
 * the distance between panels.
 */
inline void tiles(i64 rows, i64 vectors, i64 depth, const float* a, i64 ra, i64 ka, const float* b,
                  i64 panel, float* c, i64 ldc, Store how) {
  if (rows <= 0) return;
  const i64 count = ceil_div(rows, MR), small = rows / count, large = rows - small * count;
  for (i64 v = 0; v < vectors; v += 2) {
    const int nv = vectors - v >= 2 ? 2 : 1;
    const float* at = b + v / 2 * panel;
    i64 r = 0;
    for (i64 i = 0; i < count; i++) {
      const int height = static_cast<int>(small + (i < large ? 1 : 0));
      tile_of(height, nv)(depth, a + r * ra, ra, ka, at, NR, c + r * ldc + v * VL, ldc, how);
      r += height;
    }
  }
}

/**
 * Packs b(k, j) = b[k · kb + j · cb], depth × columns, into panels [columns / NR][depth][NR] for `tiles`,
 * with zeros behind the last column. One of kb and cb is 1.
 */
void pack_panels(const float* b, i64 kb, i64 cb, i64 depth, i64 columns, float* out);

}  // namespace tessera
