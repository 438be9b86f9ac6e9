/**
 * Attention by blocks of queries: the scores of a block stay in a thread's scratch, and the backward
 * pass computes them again, so nothing of size queries × keys is kept.
 */
#include <algorithm>

#include "internal.h"

namespace tessera {
namespace {

constexpr int kScores = 4, kGrads = 5;  // scratch slots; products have others
constexpr i64 kQueries = 64;            // queries a block

Attention complete(Attention s) {
  if (s.value_width == 0) s.value_width = s.width;
  const auto fill = [&](Attention::Strides& strides, i64 rows, i64 width) {
    if (strides.batch == 0 && strides.head == 0 && strides.row == 0) {
      strides = {s.heads * rows * width, rows * width, width};
    }
  };
  fill(s.q, s.queries, s.width);
  fill(s.k, s.keys, s.width);
  fill(s.v, s.keys, s.value_width);
  fill(s.o, s.queries, s.value_width);
  return s;
}

/** The keys that query row q sees. */
i64 seen(const Attention& s, i64 q) {
  return s.causal ? std::clamp<i64>(q + 1 + s.keys - s.queries, 0, s.keys) : s.keys;
}

Gemm product(i64 m, i64 n, i64 k, i64 lda, i64 ldb, i64 ldc) {
  Gemm g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.lda = lda;
  g.ldb = ldb;
  g.ldc = ldc;
  return g;
}

/**
 * Scaled and biased scores of `count` queries from `first`, [count, columns], then e^(score - m) / sum
 * in place, zeros where nothing is seen; logsum out where wanted, or in where known.
 */
void probabilities(const Attention& s, i64 b, i64 h, i64 first, i64 count, i64 columns, const float* q,
                   const float* k, float* scores, const float* known, float* logsum) {
  Gemm g = product(count, columns, s.width, s.q.row, s.k.row, columns);
  g.trans_b = true;
  g.alpha = s.scale;
  gemm(g, q + b * s.q.batch + h * s.q.head + first * s.q.row, k + b * s.k.batch + h * s.k.head, scores);
  for (i64 i = 0; i < count; i++) {
    float* row = scores + i * columns;
    const i64 visible = std::min(seen(s, first + i), columns);
    if (s.bias) {
      const float* bias = s.bias + b * s.bias_batch + h * s.bias_head + (first + i) * s.bias_query;
      for (i64 j = 0; j < visible; j++) row[j] += bias[j * s.bias_key];
    }
    const i64 at = (b * s.heads + h) * s.queries + first + i;
    float offset;
    if (known) {
      offset = known[at];
    } else {
      vf best = set1(-__builtin_inff());
      i64 j = 0;
      for (; j + VL <= visible; j += VL) best = vmax(load(row + j), best);
      offset = largest(best);
      for (; j < visible; j++) offset = std::max(offset, row[j]);
      if (!(offset > -__builtin_inff())) offset = 0;
    }
    vf total{};
    i64 j = 0;
    for (; j + VL <= visible; j += VL) {
      const vf e = vexp(load(row + j) - offset);
      store(row + j, e);
      total += e;
    }
    float tail = 0;
    if (j < visible) {
      const int left = static_cast<int>(visible - j);
      const vf e = vexp(load_part(row + j, left) - offset);
      store_part(row + j, e, left);
      for (int l = 0; l < left; l++) tail += e[l];
    }
    if (visible < columns) std::fill(row + visible, row + columns, 0.0f);
    if (!known) {
      const float all = sum(total) + tail;
      const float scale = all > 0 ? 1 / all : 0;
      for (j = 0; j + VL <= visible; j += VL) store(row + j, load(row + j) * scale);
      for (; j < visible; j++) row[j] *= scale;
      if (logsum) logsum[at] = offset + std::log(all);
    }
  }
}

}  // namespace

void attention(const Attention& shape, const float* q, const float* k, const float* v, float* o,
               float* logsum) {
  const Attention s = complete(shape);
  const i64 blocks = ceil_div(s.queries, kQueries);
  parallel_for(s.batch * s.heads * blocks, 1, [&](i64 begin, i64 end, int thread) {
    for (i64 i = begin; i < end; i++) {
      const i64 first = i % blocks * kQueries, h = i / blocks % s.heads, b = i / (blocks * s.heads);
      const i64 count = std::min(kQueries, s.queries - first);
      const i64 columns = seen(s, first + count - 1);
      float* out = o + b * s.o.batch + h * s.o.head + first * s.o.row;
      float* scores = thread_scratch(thread, kScores, kQueries * std::max<i64>(columns, 1));
      probabilities(s, b, h, first, count, columns, q, k, scores, nullptr, logsum);
      gemm(product(count, s.value_width, columns, columns, s.v.row, s.o.row), scores,
           v + b * s.v.batch + h * s.v.head, out);
    }
  });
}

void attention_grad(const Attention& shape, const float* q, const float* k, const float* v,
                    const float* d_o, const float* logsum, float* dq, float* dk, float* dv) {
  const Attention s = complete(shape);
  parallel_for(s.batch * s.heads, 1, [&](i64 begin, i64 end, int thread) {
    for (i64 i = begin; i < end; i++) {
      const i64 h = i % s.heads, b = i / s.heads;
      const i64 at_q = b * s.q.batch + h * s.q.head, at_k = b * s.k.batch + h * s.k.head;
      const i64 at_v = b * s.v.batch + h * s.v.head, at_o = b * s.o.batch + h * s.o.head;
      for (i64 j = 0; j < s.keys; j++) {
        std::fill_n(dk + at_k + j * s.k.row, s.width, 0.0f);
        std::fill_n(dv + at_v + j * s.v.row, s.value_width, 0.0f);
      }
      for (i64 first = 0; first < s.queries; first += kQueries) {
        const i64 count = std::min(kQueries, s.queries - first);
        const i64 columns = seen(s, first + count - 1);
        float* p = thread_scratch(thread, kScores, kQueries * std::max<i64>(columns, 1));
        float* dp = thread_scratch(thread, kGrads, kQueries * std::max<i64>(columns, 1));
        probabilities(s, b, h, first, count, columns, q, k, p, logsum, nullptr);
        const float* grad = d_o + at_o + first * s.o.row;
        Gemm g = product(columns, s.value_width, count, columns, s.o.row, s.v.row);
        g.trans_a = true;
        g.beta = 1;
        gemm(g, p, grad, dv + at_v);  // dv += pᵀ do
        g = product(count, columns, s.value_width, s.o.row, s.v.row, columns);
        g.trans_b = true;
        gemm(g, grad, v + at_v, dp);  // dp = do vᵀ
        for (i64 r = 0; r < count; r++) {
          const float* pr = p + r * columns;
          float* dr = dp + r * columns;
          vf inner{};
          i64 j = 0;
          for (; j + VL <= columns; j += VL) inner = fma(load(pr + j), load(dr + j), inner);
          if (j < columns) {
            const int left = static_cast<int>(columns - j);
            inner = fma(load_part(pr + j, left), load_part(dr + j, left), inner);
          }
          const vf delta = set1(sum(inner));
          for (j = 0; j + VL <= columns; j += VL) {
            store(dr + j, load(pr + j) * (load(dr + j) - delta) * s.scale);
          }
          for (; j < columns; j++) dr[j] = pr[j] * (dr[j] - delta[0]) * s.scale;
        }
        gemm(product(count, s.width, columns, columns, s.k.row, s.q.row), dp, k + at_k,
             dq + at_q + first * s.q.row);  // dq = ds k
        g = product(columns, s.width, count, columns, s.q.row, s.k.row);
        g.trans_a = true;
        g.beta = 1;
        gemm(g, dp, q + at_q + first * s.q.row, dk + at_k);  // dk += dsᵀ q
      }
    }
  });
}

}  // namespace tessera
