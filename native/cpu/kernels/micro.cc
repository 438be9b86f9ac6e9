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

}  // namespace

Tile tile_of(int rows, int vectors) {
  return vectors == 2 ? pick<2>(rows, std::make_index_sequence<MR>{})
                      : pick<1>(rows, std::make_index_sequence<MR>{});
}

}  // namespace tessera
