/**
 * Attention by blocks of queries: the scores of a block stay in a thread's scratch, and the backward
 * pass computes them again, so nothing of size queries × keys is kept.
 */
#include <algorithm>

#include "micro.h"

namespace tessera {
namespace {

constexpr int kScores = 0, kGrads = 1, kKeys = 2, kValues = 3, kTurned = 4, kBlock = 5;  // scratch
constexpr i64 kQueries = 4 * MR;  // queries a block

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

/**
 * Products of `count` queries from `first` with the keys, [count, lds] with `columns` used, scaled and
 * biased, then e^(score - m) / sum in place, zeros where nothing is seen; logsum out where wanted, or in
 * where known.
 */
void weights(const Attention& s, i64 b, i64 h, i64 first, i64 count, i64 columns, float* scores, i64 lds,
             const float* known, float* logsum);

/** The same from the queries and the packed keys, [columns / NR][width][NR]. */
void probabilities(const Attention& s, i64 b, i64 h, i64 first, i64 count, i64 columns, const float* q,
                   const float* keys, float* scores, i64 lds, const float* known, float* logsum) {
  tiles(count, ceil_div(columns, VL), s.width, q + b * s.q.batch + h * s.q.head + first * s.q.row, s.q.row, 1, keys,
        s.width * NR, scores, lds, Store::set);
  weights(s, b, h, first, count, columns, scores, lds, known, logsum);
}

void weights(const Attention& s, i64 b, i64 h, i64 first, i64 count, i64 columns, float* scores, i64 lds,
             const float* known, float* logsum) {
  for (i64 i = 0; i < count; i++) {
    float* row = scores + i * lds;
    const i64 visible = std::min(seen(s, first + i), columns);
    for (i64 j = 0; j < visible; j += VL) store(row + j, load(row + j) * s.scale);
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
    std::fill(row + visible, row + lds, 0.0f);
    if (!known) {
      const float all = sum(total) + tail;
      const float scale = all > 0 ? 1 / all : 0;
      for (j = 0; j + VL <= visible; j += VL) store(row + j, load(row + j) * scale);
      for (; j < visible; j++) row[j] *= scale;
      if (logsum) logsum[at] = offset + std::log(all);
    }
  }
}

/** Sums [rows, wide] to rows of `width` values, `stride` apart. */
void copy_rows(const float* from, i64 wide, i64 rows, i64 width, float* to, i64 stride) {
  for (i64 r = 0; r < rows; r++) {
    i64 i = 0;
    for (; i + VL <= width; i += VL) store(to + r * stride + i, load(from + r * wide + i));
    if (i < width) {
      const int left = static_cast<int>(width - i);
      store_part(to + r * stride + i, load_part(from + r * wide + i, left), left);
    }
  }
}

/** Few queries, as when decoding: packing keys and values would cost more than reading them once. */
bool few(const Attention& s) { return s.queries <= 2 && s.width % VL == 0 && s.value_width % VL == 0; }

/** scores[j] = q · k_j for j in [0, columns); the last group of VL may reach behind, up to `most`. */
void few_scores(const Attention& s, const float* q, const float* k, i64 columns, float* scores) {
  for (i64 first = 0; first < columns; first += VL) {
    vf parts[VL];
    for (int l = 0; l < VL; l++) {
      const float* key = k + std::min(first + l, columns - 1) * s.k.row;
      vf sum{};
      for (i64 i = 0; i < s.width; i += VL) sum = fma(load(q + i), load(key + i), sum);
      parts[l] = sum;
    }
    store(scores + first, sums(parts));
  }
}

/** o = sum_j p_j v_j, keys in order; four sums take turns, so that additions need not wait. */
void few_values(const Attention& s, const float* p, const float* v, i64 columns, float* o) {
  for (i64 i = 0; i < s.value_width; i += VL) {
    vf sums4[4] = {};
    i64 j = 0;
    for (; j + 4 <= columns; j += 4) {
      for (int l = 0; l < 4; l++) {
        sums4[l] = fma(set1(p[j + l]), load(v + (j + l) * s.v.row + i), sums4[l]);
      }
    }
    for (; j < columns; j++) sums4[0] = fma(set1(p[j]), load(v + j * s.v.row + i), sums4[0]);
    store(o + i, (sums4[0] + sums4[1]) + (sums4[2] + sums4[3]));
  }
}

i64 padded(i64 n) { return round_up(std::max<i64>(n, 1), NR); }

}  // namespace

void attention(const Attention& shape, const float* q, const float* k, const float* v, float* o,
               float* logsum) {
  const Attention s = complete(shape);
  if (s.batch * s.heads * s.queries == 0) return;
  // Heads are the threads' work where there are enough; else a head's queries are divided as well.
  const i64 heads = s.batch * s.heads, blocks = ceil_div(s.queries, kQueries);
  const i64 groups = heads >= 4 * threads() ? 1 : std::min(blocks, ceil_div(4 * threads(), heads));
  const i64 most = padded(s.keys), wide = round_up(s.value_width, VL);
  if (few(s)) {
    parallel_for(heads, 1, [&](i64 begin, i64 end, int thread) {
      float* scores = thread_scratch(thread, kScores, most);
      for (i64 i = begin; i < end; i++) {
        const i64 h = i % s.heads, b = i / s.heads;
        for (i64 row = 0; row < s.queries; row++) {
          const i64 columns = seen(s, row);
          float* out = o + b * s.o.batch + h * s.o.head + row * s.o.row;
          if (columns > 0) {
            few_scores(s, q + b * s.q.batch + h * s.q.head + row * s.q.row, k + b * s.k.batch + h * s.k.head,
                       columns, scores);
          }
          weights(s, b, h, row, 1, columns, scores, padded(columns), nullptr, logsum);
          few_values(s, scores, v + b * s.v.batch + h * s.v.head, columns, out);
        }
      }
    });
    return;
  }
  parallel_for(heads * groups, 1, [&](i64 begin, i64 end, int thread) {
    float* keys = thread_scratch(thread, kKeys, most * s.width);
    float* values = thread_scratch(thread, kValues, padded(s.value_width) * std::max<i64>(s.keys, 1));
    float* scores = thread_scratch(thread, kScores, kQueries * most);
    float* block = thread_scratch(thread, kBlock, kQueries * wide);
    for (i64 i = begin; i < end; i++) {
      const i64 group = i % groups, h = i / groups % s.heads, b = i / (groups * s.heads);
      const i64 b0 = blocks * group / groups, b1 = blocks * (group + 1) / groups;
      if (b0 == b1) continue;
      const i64 all = seen(s, std::min(b1 * kQueries, s.queries) - 1);
      pack_panels(k + b * s.k.batch + h * s.k.head, 1, s.k.row, s.width, all, keys);
      pack_panels(v + b * s.v.batch + h * s.v.head, s.v.row, 1, all, s.value_width, values);
      for (i64 first = b0 * kQueries; first < std::min(b1 * kQueries, s.queries); first += kQueries) {
        const i64 count = std::min(kQueries, s.queries - first);
        const i64 columns = seen(s, first + count - 1), lds = padded(columns);
        probabilities(s, b, h, first, count, columns, q, keys, scores, lds, nullptr, logsum);
        tiles(count, wide / VL, columns, scores, lds, 1, values, all * NR, block, wide, Store::set);
        copy_rows(block, wide, count, s.value_width, o + b * s.o.batch + h * s.o.head + first * s.o.row, s.o.row);
      }
    }
  });
}

void attention_grad(const Attention& shape, const float* q, const float* k, const float* v,
                    const float* d_o, const float* logsum, float* dq, float* dk, float* dv) {
  const Attention s = complete(shape);
  const i64 most = padded(s.keys), vw = s.value_width, w = round_up(s.width, VL), vwide = round_up(vw, VL);
  const i64 keep = std::max<i64>(s.keys, 1);
  parallel_for(s.batch * s.heads, 1, [&](i64 begin, i64 end, int thread) {
    float* keys = thread_scratch(thread, kKeys, most * s.width + padded(s.width) * keep);
    float* rows = keys + most * s.width;  // keys packed for dq
    float* values = thread_scratch(thread, kValues, most * vw);
    float* p = thread_scratch(thread, kScores, kQueries * most);
    float* dp = thread_scratch(thread, kGrads, kQueries * most);
    float* sums = thread_scratch(thread, kTurned, keep * (w + vwide));  // of dk and dv
    float* block = thread_scratch(thread, kBlock, kQueries * (padded(s.width) + padded(vw) + w));
    float *queries = block, *grads = block + kQueries * padded(s.width), *out = grads + kQueries * padded(vw);
    for (i64 i = begin; i < end; i++) {
      const i64 h = i % s.heads, b = i / s.heads;
      const i64 at_q = b * s.q.batch + h * s.q.head, at_k = b * s.k.batch + h * s.k.head;
      const i64 at_v = b * s.v.batch + h * s.v.head, at_o = b * s.o.batch + h * s.o.head;
      pack_panels(k + at_k, 1, s.k.row, s.width, s.keys, keys);
      pack_panels(k + at_k, s.k.row, 1, s.keys, s.width, rows);
      pack_panels(v + at_v, 1, s.v.row, vw, s.keys, values);
      float *dks = sums, *dvs = sums + keep * w;
      std::fill(sums, sums + keep * (w + vwide), 0.0f);
      for (i64 first = 0; first < s.queries; first += kQueries) {
        const i64 count = std::min(kQueries, s.queries - first);
        const i64 columns = seen(s, first + count - 1), lds = padded(columns);
        probabilities(s, b, h, first, count, columns, q, keys, p, lds, logsum, nullptr);
        const float* grad = d_o + at_o + first * s.o.row;
        const float* query = q + at_q + first * s.q.row;
        pack_panels(grad, s.o.row, 1, count, vw, grads);
        pack_panels(query, s.q.row, 1, count, s.width, queries);
        tiles(columns, vwide / VL, count, p, 1, lds, grads, count * NR, dvs, vwide, Store::add);  // dv += pᵀ do
        tiles(count, ceil_div(columns, VL), vw, grad, s.o.row, 1, values, vw * NR, dp, lds, Store::set);  // do vᵀ
        for (i64 r = 0; r < count; r++) {
          const float* pr = p + r * lds;
          float* dr = dp + r * lds;
          const i64 end_of_row = round_up(columns, VL);  // zeros of p behind what is seen
          vf inner{};
          for (i64 j = 0; j < end_of_row; j += VL) inner = fma(load(pr + j), load(dr + j), inner);
          const vf delta = set1(sum(inner));
          for (i64 j = 0; j < end_of_row; j += VL) {
            store(dr + j, load(pr + j) * (load(dr + j) - delta) * s.scale);
          }
        }
        tiles(count, w / VL, columns, dp, lds, 1, rows, s.keys * NR, out, w, Store::set);
        copy_rows(out, w, count, s.width, dq + at_q + first * s.q.row, s.q.row);  // dq = ds k
        tiles(columns, w / VL, count, dp, 1, lds, queries, count * NR, dks, w, Store::add);  // dk += dsᵀ q
      }
      copy_rows(dks, w, s.keys, s.width, dk + at_k, s.k.row);
      copy_rows(dvs, vwide, s.keys, vw, dv + at_v, s.v.row);
    }
  });
}

}  // namespace tessera
