/**
 * Convolutions as products: a block of results at a time, the values under their kernels are gathered
 * into rows in the cache and multiplied with the filter. Any kernel, stride, pad and dilation, one group.
 * A strided input gradient is as many convolutions of dy as there are phases of the stride, each with
 * the taps that reach it, so that no zero is ever multiplied.
 */
#include <algorithm>
#include <vector>

#include "conv.h"
#include "micro.h"

namespace tessera {
namespace {

constexpr i64 kBlock = 4 * MR;   // results a block
constexpr i64 kDepth = 256;      // values under the kernel a step
constexpr i64 kParts = 8;        // partial sums of a small filter gradient
constexpr i64 kSmall = 512 * 1024;  // floats up to which a filter gradient has partial sums

TESSERA_INLINE vf get(const float* p, int n) { return n == VL ? load(p) : load_part(p, n); }
TESSERA_INLINE void put(float* p, vf x, int n) { n == VL ? store(p, x) : store_part(p, x, n); }

inline void copy(const float* from, float* to, i64 n) {
  i64 i = 0;
  for (; i + VL <= n; i += VL) store(to + i, load(from + i));
  if (i < n) store_part(to + i, load_part(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}
inline void clear(float* to, i64 n) {
  i64 i = 0;
  for (; i + VL <= n; i += VL) store(to + i, vf{});
  if (i < n) store_part(to + i, vf{}, static_cast<int>(n - i));
}

/** Which positions of a tensor lie under the kernel of a result. */
struct Gather {
  const float* x;
  i64 in[3], channels;
  i64 out[3];            // results along each axis
  i64 step[3];           // from result to result
  std::vector<i64> at[3];  // offset of each tap from a result's first position
  bool dense_w = true;   // taps along w follow each other

  i64 taps() const { return static_cast<i64>(at[0].size() * at[1].size() * at[2].size()); }
  i64 depth() const { return taps() * channels; }

  void finish() {
    for (std::size_t i = 1; i < at[2].size(); i++) dense_w = dense_w && at[2][i] == at[2][i - 1] + 1;
  }

  /** Taps [first, last) of (t, h) pairs under `count` results from `row` (b, t, h, w in order) into rows. */
  void rows(i64 row, i64 count, i64 first, i64 last, float* to, i64 stride) const {
    const i64 nh = static_cast<i64>(at[1].size()), nw = static_cast<i64>(at[2].size()), run = nw * channels;
    i64 w = row % out[2], h = row / out[2] % out[1], t = row / (out[2] * out[1]) % out[0];
    i64 b = row / (out[2] * out[1] * out[0]);
    for (i64 i = 0; i < count; i++) {
      float* line = to + i * stride;
      const i64 left = w * step[2] + (nw ? at[2][0] : 0);
      const bool whole = dense_w && left >= 0 && left + nw <= in[2];
      for (i64 pair = first; pair < last; pair++, line += run) {
        const i64 pt = t * step[0] + at[0][static_cast<std::size_t>(pair / nh)];
        const i64 ph = h * step[1] + at[1][static_cast<std::size_t>(pair % nh)];
        if (pt < 0 || pt >= in[0] || ph < 0 || ph >= in[1]) {
          clear(line, run);
          continue;
        }
        const float* source = x + ((b * in[0] + pt) * in[1] + ph) * in[2] * channels;
        if (whole) {
          copy(source + left * channels, line, run);
        } else {
          for (i64 k = 0; k < nw; k++) {
            const i64 pw = w * step[2] + at[2][static_cast<std::size_t>(k)];
            if (pw < 0 || pw >= in[2]) {
              clear(line + k * channels, channels);
            } else {
              copy(source + pw * channels, line + k * channels, channels);
            }
          }
        }
      }
      if (++w == out[2]) {
        w = 0;
        if (++h == out[1]) {
          h = 0;
          if (++t == out[0]) {
            t = 0;
            b++;
          }
        }
      }
    }
  }
};

i64 row_stride(i64 depth) { return round_up(depth, VL) + (round_up(depth, VL) % 512 == 0 ? VL : 0); }

/** Where results go: result (b, t, h, w) to position (t, h, w) · step + first. */
struct Scatter {
  float* y;
  i64 size[3], channels;
  i64 step[3], first[3];
};

/** filter: panels of [depth, channels of the result]. */
void convolve(const Gather& g, i64 batch, const float* panels, const Scatter& s, const ConvExtra& extra) {
  const i64 depth = g.depth(), stride = row_stride(depth), co = s.channels, wide = round_up(co, VL);
  const i64 total = batch * g.out[0] * g.out[1] * g.out[2];
  const i64 pairs = static_cast<i64>(g.at[0].size() * g.at[1].size());
  const i64 steps = std::max<i64>(1, ceil_div(depth, kDepth)), deep = ceil_div(depth, steps);
  parallel_for(ceil_div(total, kBlock), 1, [&](i64 begin, i64 end, int thread) {
    float* a = thread_scratch(thread, 0, kBlock * stride);
    float* sums = thread_scratch(thread, 1, kBlock * wide);
    for (i64 block = begin; block < end; block++) {
      const i64 row = block * kBlock, count = std::min(kBlock, total - row);
      if (depth == 0) {
        std::fill(sums, sums + count * wide, 0.0f);
      } else {
        g.rows(row, count, 0, pairs, a, stride);
      }
      for (i64 k = 0; k < depth; k += deep) {
        tiles(count, wide / VL, std::min(deep, depth - k), a + k, stride, 1, panels + k * NR, depth * NR, sums,
              wide, k == 0 ? Store::set : Store::add);
      }
      for (i64 i = 0; i < count; i++) {
        const i64 r = row + i;
        const i64 w = r % g.out[2] * s.step[2] + s.first[2], h = r / g.out[2] % g.out[1] * s.step[1] + s.first[1];
        const i64 t = r / (g.out[2] * g.out[1]) % g.out[0] * s.step[0] + s.first[0];
        const i64 b = r / (g.out[2] * g.out[1] * g.out[0]);
        const i64 at = (((b * s.size[0] + t) * s.size[1] + h) * s.size[2] + w) * co;
        for (i64 o = 0; o < co; o += VL) {
          const int n = static_cast<int>(std::min<i64>(VL, co - o));
          vf v = load(sums + i * wide + o);
          if (extra.bias) v += get(extra.bias + o, n);
          if (extra.residual) v += get(extra.residual + at + o, n);
          put(s.y + at + o, v, n);
        }
      }
    }
  });
}

/** [depth, columns] to panels of NR columns; row(k) gives row k. */
template <typename F>
void pack_panels(i64 depth, i64 columns, float* out, F row) {
  parallel_for(depth, std::max<i64>(1, 16384 / columns), [&](i64 begin, i64 end, int) {
    for (i64 k = begin; k < end; k++) {
      const float* from = row(k);
      for (i64 o = 0; o < columns; o += NR) {
        float* to = out + o * depth + k * NR;
        const i64 n = std::min<i64>(NR, columns - o);
        copy(from + o, to, n);
        if (n < NR) clear(to + n, NR - n);
      }
    }
  });
}

bool suits(const Conv& c) {
  return c.groups == 1 && c.ci > 0 && c.co > 0 && c.kernel[0] > 0 && c.kernel[1] > 0 && c.kernel[2] > 0;
}

Gather forward_gather(const Conv& c, const float* x) {
  Gather g;
  g.x = x;
  g.channels = c.ci;
  for (int a = 0; a < 3; a++) {
    g.in[a] = c.in[a];
    g.out[a] = c.out[a];
    g.step[a] = c.stride[a];
    for (i64 k = 0; k < c.kernel[a]; k++) g.at[a].push_back(k * c.dilation[a] - c.pad[a]);
  }
  g.finish();
  return g;
}

}  // namespace

bool direct_forward(const Conv& c, const float* x, const float* filter, float* y, const ConvExtra& extra) {
  if (!suits(c)) return false;
  const Gather g = forward_gather(c, x);
  const i64 depth = g.depth();
  float* panels = shared_scratch(5, depth * round_up(c.co, NR));
  pack_panels(depth, c.co, panels, [&](i64 k) { return filter + k * c.co; });
  Scatter s{y, {c.out[0], c.out[1], c.out[2]}, c.co, {1, 1, 1}, {0, 0, 0}};
  convolve(g, c.batch, panels, s, extra);
  return true;
}

bool direct_input_grad(const Conv& c, const float* dy, const float* filter, float* dx, const ConvExtra& extra) {
  if (!suits(c)) return false;
  const float* turned = reversed_filter(c, filter);  // [reversed taps, co, ci]
  const i64 taps = c.kernel[0] * c.kernel[1] * c.kernel[2];
  float* panels = shared_scratch(5, taps * c.co * round_up(c.ci, NR));
  i64 phase[3];
  for (phase[0] = 0; phase[0] < c.stride[0]; phase[0]++) {
    for (phase[1] = 0; phase[1] < c.stride[1]; phase[1]++) {
      for (phase[2] = 0; phase[2] < c.stride[2]; phase[2]++) {
        Gather g;
        g.x = dy;
        g.channels = c.co;
        std::vector<i64> used[3];  // taps, counted from the last
        bool empty = false;
        for (int a = 0; a < 3; a++) {
          g.in[a] = c.out[a];
          g.out[a] = c.in[a] > phase[a] ? ceil_div(c.in[a] - phase[a], c.stride[a]) : 0;
          g.step[a] = 1;
          empty = empty || g.out[a] == 0;
          for (i64 k = c.kernel[a] - 1; k >= 0; k--) {
            // dx at phase + stride · i sees dy at (phase + stride · i + pad - k · dilation) / stride.
            const i64 from = phase[a] + c.pad[a] - k * c.dilation[a];
            if (from % c.stride[a] == 0) {
              g.at[a].push_back(from / c.stride[a]);
              used[a].push_back(c.kernel[a] - 1 - k);
            }
          }
        }
        if (empty) continue;
        g.finish();
        const i64 depth = g.depth();
        const i64 nh = static_cast<i64>(used[1].size()), nw = static_cast<i64>(used[2].size());
        pack_panels(depth, c.ci, panels, [&](i64 k) {
          const i64 tap = k / c.co;
          const i64 w = used[2][static_cast<std::size_t>(tap % nw)];
          const i64 h = used[1][static_cast<std::size_t>(tap / nw % nh)];
          const i64 t = used[0][static_cast<std::size_t>(tap / (nw * nh))];
          return turned + (((t * c.kernel[1] + h) * c.kernel[2] + w) * c.co + k % c.co) * c.ci;
        });
        Scatter s{dx, {c.in[0], c.in[1], c.in[2]}, c.ci, {c.stride[0], c.stride[1], c.stride[2]},
                  {phase[0], phase[1], phase[2]}};
        convolve(g, c.batch, panels, s, extra);
      }
    }
  }
  return true;
}

bool direct_filter_grad(const Conv& c, const float* x, const float* dy, float* df) {
  if (!suits(c)) return false;
  const Gather g = forward_gather(c, x);
  const i64 total = c.batch * c.out[0] * c.out[1] * c.out[2], wide = round_up(c.co, VL);
  const i64 panels = ceil_div(wide, NR);
  const i64 pairs = c.kernel[0] * c.kernel[1], run = c.kernel[2] * c.ci;
  const i64 blocks = std::max<i64>(1, ceil_div(total, kBlock));
  // Small gradients: parts of the positions, each with its own sums. Large ones: parts of the taps.
  const bool by_position = g.depth() * wide <= kSmall;
  const i64 parts = by_position ? std::min(kParts, blocks) : 1;
  const i64 groups = by_position ? 1 : pairs;
  float* sums = shared_scratch(0, parts * g.depth() * wide);
  parallel_for(parts * groups, 1, [&](i64 begin, i64 end, int thread) {
    for (i64 task = begin; task < end; task++) {
      const i64 part = task % parts, group = task / parts;
      const i64 first = by_position ? 0 : group, last = by_position ? pairs : group + 1;
      const i64 depth = (last - first) * run, stride = row_stride(depth);
      float* a = thread_scratch(thread, 0, kBlock * stride);
      float* b = thread_scratch(thread, 1, kBlock * panels * NR);
      float* out = sums + (part * pairs + first) * run * wide;
      const i64 start = blocks * part / parts, stop = blocks * (part + 1) / parts;
      for (i64 block = start; block < stop; block++) {
        const i64 row = block * kBlock, count = std::min(kBlock, total - row);
        if (count > 0) {
          g.rows(row, count, first, last, a, stride);
          for (i64 i = 0; i < count; i++) {
            const float* from = dy + (row + i) * c.co;
            for (i64 o = 0; o < c.co; o += NR) {
              const i64 n = std::min<i64>(NR, c.co - o);
              float* to = b + o * kBlock + i * NR;
              copy(from + o, to, n);
              if (n < NR) clear(to + n, NR - n);
            }
          }
        }
        tiles(depth, wide / VL, std::max<i64>(count, 0), a, 1, stride, b, kBlock * NR, out, wide,
              block == start ? Store::set : Store::add);
      }
    }
  });
  parallel_for(g.depth(), std::max<i64>(1, 16384 / c.co), [&](i64 begin, i64 end, int) {
    for (i64 k = begin; k < end; k++) {
      for (i64 o = 0; o < c.co; o += VL) {
        vf v = load(sums + k * wide + o);
        for (i64 part = 1; part < parts; part++) v += load(sums + (part * g.depth() + k) * wide + o);
        put(df + k * c.co + o, v, static_cast<int>(std::min<i64>(VL, c.co - o)));
      }
    }
  });
  return true;
}

}  // namespace tessera
