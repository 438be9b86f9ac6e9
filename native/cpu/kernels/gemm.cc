/**
 * Matrix products on the register tiles of micro.h. b is packed into panels of NR columns, a block of k
 * at a time; a is read where it lies, either way round. Few rows are a matter of reading b once, which
 * the second path does without packing.
 *
 * Sums over k run in order within blocks of kDepth, and the blocks are added in order, on every path: a row's
 * result is the same to the bit however many rows there are. Streaming relies on it.
 */
#include <algorithm>

#include "micro.h"

namespace tessera {
namespace {

constexpr i64 kDepth = 384;   // k a block: a panel of b stays in the first-level cache
constexpr i64 kColumns = 1024;  // columns packed at a time
constexpr i64 kFewRows = 8;

TESSERA_INLINE vf get(const float* p, int n) { return n == VL ? load(p) : load_part(p, n); }
TESSERA_INLINE void put(float* p, vf x, int n) { n == VL ? store(p, x) : store_part(p, x, n); }

vf apply(Activation activation, vf x) {
  switch (activation) {
    case Activation::silu: return vsilu(x);
    case Activation::gelu: return vgelu(x);
    default: return x;
  }
}

struct Operands {
  i64 m, n, k;
  const float* a;
  i64 ra, ka;  // strides of rows and of k
  const float* b;
  i64 kb, cb;  // strides of k and of columns
  float* c;
  i64 ldc;
};

/** Panels [first, last) of `columns` columns from n0 of b, k from k0. */
void pack(const Operands& o, i64 k0, i64 depth, i64 n0, i64 columns, float* out, i64 first, i64 last) {
  const i64 begin = first * NR, end = std::min(columns, last * NR);
  pack_panels(o.b + k0 * o.kb + (n0 + begin) * o.cb, o.kb, o.cb, depth, end - begin, out + first * depth * NR);
}

/** alpha, bias, beta and activation of `width` finished sums in `sums` into c. */
void finish(const Gemm& s, const float* sums, float* c, i64 n0, i64 width) {
  const vf alpha = set1(s.alpha), beta = set1(s.beta);
  for (i64 i = 0; i < width; i += VL) {
    const int n = static_cast<int>(std::min<i64>(VL, width - i));
    vf v = get(sums + i, n) * alpha;
    if (s.bias) v += get(s.bias + n0 + i, n);
    if (s.beta != 0) v = fma(beta, get(c + i, n), v);
    put(c + i, apply(s.activation, v), n);
  }
}

bool plain(const Gemm& s) {
  return s.alpha == 1 && s.beta == 0 && !s.bias && s.activation == Activation::none;
}

/** Rows [m0, m1) of one product over packed columns [n0, n0 + columns). */
void rows(const Gemm& s, const Operands& o, i64 m0, i64 m1, i64 n0, i64 columns, const float* packed,
          i64 k0, i64 depth, float* sums, i64 lds) {
  tiles(m1 - m0, ceil_div(columns, VL), depth, o.a + m0 * o.ra + k0 * o.ka, o.ra, o.ka, packed, depth * NR,
        sums, lds, k0 == 0 ? Store::set : Store::add);
  if (k0 + depth == o.k && sums != o.c + m0 * o.ldc + n0) {
    for (i64 m = m0; m < m1; m++) finish(s, sums + (m - m0) * lds, o.c + m * o.ldc + n0, n0, columns);
  }
}

/** One product with many rows. Threads share the packed b and take blocks of rows. */
void large(const Gemm& s, const Operands& o) {
  for (i64 n0 = 0; n0 < o.n; n0 += kColumns) {
    const i64 columns = std::min(kColumns, o.n - n0), wide = round_up(columns, NR);
    // Sums go straight to c where nothing else is to be done and whole vectors fit.
    const bool direct = plain(s) && columns % VL == 0;
    const i64 lds = direct ? o.ldc : wide;
    const bool split = o.k > kDepth;
    float* all = direct ? nullptr : split ? shared_scratch(6, o.m * wide) : nullptr;
    const i64 step = std::clamp<i64>(round_up(ceil_div(o.m, 2 * threads()), MR), MR, 8 * MR);
    for (i64 k0 = 0; k0 < o.k; k0 += kDepth) {
      const i64 depth = std::min(kDepth, o.k - k0), panels = wide / NR;
      float* packed = shared_scratch(5, panels * depth * NR);
      parallel_for(panels, std::max<i64>(1, 8192 / (depth * NR)), [&](i64 begin, i64 end, int) {
        pack(o, k0, depth, n0, columns, packed, begin, end);
      });
      parallel_for(ceil_div(o.m, step), 1, [&](i64 begin, i64 end, int thread) {
        for (i64 block = begin; block < end; block++) {
          const i64 m0 = block * step, m1 = std::min(o.m, m0 + step);
          float* sums = direct ? o.c + m0 * o.ldc + n0
                        : split ? all + m0 * wide
                                : thread_scratch(thread, 6, step * wide);
          rows(s, o, m0, m1, n0, columns, packed, k0, depth, sums, lds);
        }
      });
    }
  }
}

/** One product on one thread, for batches of small ones. */
void small(const Gemm& s, const Operands& o, int thread) {
  const i64 limit = std::max<i64>(NR, 64 * 1024 / std::max<i64>(1, std::min(o.k, kDepth)) / NR * NR);
  for (i64 n0 = 0; n0 < o.n; n0 += limit) {
    const i64 columns = std::min(limit, o.n - n0), wide = round_up(columns, NR);
    const bool direct = plain(s) && columns % VL == 0;
    float* all = direct ? nullptr : thread_scratch(thread, 6, o.m * wide);
    for (i64 k0 = 0; k0 < o.k; k0 += kDepth) {
      const i64 depth = std::min(kDepth, o.k - k0);
      float* packed = thread_scratch(thread, 7, wide * depth);
      pack(o, k0, depth, n0, columns, packed, 0, wide / NR);
      rows(s, o, 0, o.m, n0, columns, packed, k0, depth, direct ? o.c + n0 : all, direct ? o.ldc : wide);
    }
  }
}

/**
 * Few rows, b's rows along n: columns [n0, n1) in strips of some vectors, b read once and in order. Blocks of k
 * are summed apart and then joined, as elsewhere: a row's result does not depend on how many rows there are.
 */
template <int ROWS>
void strip(const Operands& o, i64 n0, i64 n1, float* sums, i64 lds) {
  constexpr int V = ROWS <= 2 ? 8 : ROWS <= 4 ? 4 : 3;
  i64 n = n0;
  for (; n + V * VL <= n1; n += V * VL) {
    for (i64 k0 = 0; k0 < o.k; k0 += kDepth) {
      vf acc[ROWS][V]{};
      const i64 end = std::min(o.k, k0 + kDepth);
      const float* b = o.b + n + k0 * o.kb;
      for (i64 k = k0; k < end; k++, b += o.kb) {
        vf w[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) w[v] = load(b + v * VL);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
          const vf value = set1(o.a[r * o.ra + k * o.ka]);
#pragma GCC unroll 8
          for (int v = 0; v < V; v++) acc[r][v] = fma(value, w[v], acc[r][v]);
        }
      }
      for (int r = 0; r < ROWS; r++) {
        float* to = sums + r * lds + n - n0;
        for (int v = 0; v < V; v++) store(to + v * VL, k0 == 0 ? acc[r][v] : acc[r][v] + load(to + v * VL));
      }
    }
  }
  for (; n < n1; n += VL) {
    const int left = static_cast<int>(std::min<i64>(VL, n1 - n));
    for (i64 k0 = 0; k0 < o.k; k0 += kDepth) {
      vf acc[ROWS]{};
      const i64 end = std::min(o.k, k0 + kDepth);
      const float* b = o.b + n + k0 * o.kb;
      for (i64 k = k0; k < end; k++, b += o.kb) {
        const vf w = get(b, left);
        for (int r = 0; r < ROWS; r++) acc[r] = fma(set1(o.a[r * o.ra + k * o.ka]), w, acc[r]);
      }
      for (int r = 0; r < ROWS; r++) {
        float* to = sums + r * lds + n - n0;
        store(to, k0 == 0 ? acc[r] : acc[r] + load(to));
      }
    }
  }
}

/** Rows of a times packed panels [columns / NR][k][NR], by blocks of k. */
void packed_columns(i64 rows, i64 columns, i64 k, const float* a, i64 ra, i64 ka, const float* packed, float* sums,
                    i64 lds) {
  for (i64 k0 = 0; k0 < k; k0 += kDepth) {
    tiles(rows, ceil_div(columns, VL), std::min(kDepth, k - k0), a + k0 * ka, ra, ka, packed + k0 * NR, k * NR, sums,
          lds, k0 == 0 ? Store::set : Store::add);
  }
}

/** Few rows, b's rows along k (transposed): a panel of columns at a time is turned in the cache. */
void turned(const Operands& o, i64 n0, i64 n1, float* sums, i64 lds, int thread) {
  float* packed = thread_scratch(thread, 7, o.k * NR);
  for (i64 n = n0; n < n1; n += NR) {
    const i64 columns = std::min<i64>(NR, n1 - n);
    pack_panels(o.b + n * o.cb, o.kb, o.cb, o.k, columns, packed);
    packed_columns(o.m, columns, o.k, o.a, o.ra, o.ka, packed, sums + n - n0, lds);
  }
}

using Few = void (*)(const Operands&, i64, i64, float*, i64);
constexpr Few kStrips[] = {strip<1>, strip<2>, strip<3>, strip<4>, strip<5>, strip<6>, strip<7>, strip<8>};

bool few(const Operands& o) { return o.m <= kFewRows && (o.cb == 1 || o.kb == 1); }

void few_columns(const Gemm& s, const Operands& o, i64 n0, i64 n1, int thread) {
  const i64 wide = round_up(n1 - n0, VL);
  float* sums = thread_scratch(thread, 6, o.m * wide);
  if (o.cb == 1) {
    kStrips[o.m - 1](o, n0, n1, sums, wide);
  } else {
    turned(o, n0, n1, sums, wide, thread);
  }
  for (i64 m = 0; m < o.m; m++) finish(s, sums + m * wide, o.c + m * o.ldc + n0, n0, n1 - n0);
}

}  // namespace

void gemm(const Gemm& s, const float* a, const float* b, float* c) {
  if (s.m <= 0 || s.n <= 0 || s.batch <= 0) return;
  const i64 lda = s.lda ? s.lda : s.trans_a ? s.m : s.k;
  const i64 ldb = s.ldb ? s.ldb : s.trans_b ? s.k : s.n;
  const i64 ldc = s.ldc ? s.ldc : s.n;
  const auto at = [&](i64 i) {
    return Operands{s.m, s.n, s.k, a + i * s.a_stride, s.trans_a ? 1 : lda, s.trans_a ? lda : 1,
                    b + i * s.b_stride, s.trans_b ? 1 : ldb, s.trans_b ? ldb : 1, c + i * s.c_stride, ldc};
  };
  if (s.k <= 0) {
    Gemm empty = s;
    empty.alpha = 0;
    parallel_for(s.batch * s.m, 16, [&](i64 begin, i64 end, int thread) {
      float* zeros = thread_scratch(thread, 6, s.n);
      std::fill(zeros, zeros + s.n, 0.0f);
      for (i64 r = begin; r < end; r++) finish(empty, zeros, c + r / s.m * s.c_stride + r % s.m * ldc, 0, s.n);
    });
    return;
  }
  const Operands first = at(0);
  const double work = static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
  if (few(first)) {
    // Parts of the columns, at least as long as makes reading worthwhile.
    const i64 part = std::max<i64>(round_up(ceil_div(s.n, 4 * threads()), 4 * VL),
                                   round_up(static_cast<i64>(32768 / static_cast<double>(s.k * s.m)) + 1, 4 * VL));
    const i64 parts = ceil_div(s.n, part);
    const i64 grain = std::max<i64>(1, static_cast<i64>(65536 / (work / static_cast<double>(parts) + 1)));
    parallel_for(s.batch * parts, grain, [&](i64 begin, i64 end, int thread) {
      for (i64 i = begin; i < end; i++) {
        const i64 n0 = i % parts * part;
        few_columns(s, at(i / parts), n0, std::min(s.n, n0 + part), thread);
      }
    });
    return;
  }
  // A repeated b under dense rows is one taller product.
  if (s.batch > 1 && s.b_stride == 0 && !s.trans_a && s.a_stride == s.m * lda && s.c_stride == s.m * ldc) {
    Gemm tall = s;
    tall.m = s.m * s.batch;
    tall.batch = 1;
    tall.lda = lda;
    tall.ldb = ldb;
    tall.ldc = ldc;
    return gemm(tall, a, b, c);
  }
  if (s.batch >= threads() && work < 4e7) {
    const i64 grain = std::max<i64>(1, static_cast<i64>(1e5 / work));
    parallel_for(s.batch, grain, [&](i64 begin, i64 end, int thread) {
      for (i64 i = begin; i < end; i++) small(s, at(i), thread);
    });
    return;
  }
  if (work < 3e4 || in_parallel()) {
    for (i64 i = 0; i < s.batch; i++) small(s, at(i), current_thread());
    return;
  }
  for (i64 i = 0; i < s.batch; i++) large(s, at(i));
}

void pack_matrix(i64 k, i64 n, const float* b, i64 kb, i64 cb, float* out) {
  parallel_for(ceil_div(n, NR), std::max<i64>(1, 8192 / std::max<i64>(k * NR, 1)), [&](i64 begin, i64 end, int) {
    pack_panels(b + begin * NR * cb, kb, cb, k, std::min(n, end * NR) - begin * NR, out + begin * k * NR);
  });
}

void packed_gemm(const PackedGemm& s, const float* a, const float* packed, float* c) {
  if (s.m <= 0 || s.n <= 0) return;
  Gemm end;
  end.bias = s.bias;
  end.activation = s.activation;
  const i64 panels = ceil_div(s.n, NR), height = 2 * MR, blocks = ceil_div(s.m, height);
  const i64 work = std::max<i64>(1, std::min(s.m, height) * s.k * NR);
  parallel_for(panels * blocks, std::max<i64>(1, 32768 / work), [&](i64 begin, i64 last, int thread) {
    float* sums = thread_scratch(thread, 6, height * NR);
    for (i64 i = begin; i < last; i++) {
      const i64 n0 = i / blocks * NR, m0 = i % blocks * height;
      const i64 columns = std::min<i64>(NR, s.n - n0), rows = std::min(height, s.m - m0);
      packed_columns(rows, columns, s.k, a + m0 * s.lda, s.lda, 1, packed + n0 * s.k, sums, NR);
      for (i64 m = 0; m < rows; m++) finish(end, sums + m * NR, c + (m0 + m) * s.n + n0, n0, columns);
    }
  });
}

}  // namespace tessera
