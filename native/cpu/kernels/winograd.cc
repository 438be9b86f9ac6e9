/**
 * Convolutions of three taps an axis (or one along time) and stride 1 by nested Toom-Cook algorithms
 * (toom.h), F(mt, 3) over time and F(ms, 3) over height and width. Tiles of mt × ms × ms results are
 * taken a block at a time, so that a block's transformed values stay in the second-level cache:
 *
 *   v[point] [tiles, ci] = Bᵀ x,   m[point] = v[point] u[point],   y = Aᵀ m,   u = G filter.
 *
 * The filter gradient is Gᵀ (sum over tiles of vᵀ (A dy)). Its sums run over all tiles in order.
 */
#include <algorithm>
#include <cstdlib>

#include "conv.h"
#include "micro.h"
#include "toom.h"

namespace tessera {
namespace {

/** What a tile of the convolution looks at: one side's tensor and the tile's place in it. */
struct Side {
  i64 size[3];
  i64 channels;
  i64 batch_stride, stride[3];  // in floats

  Side(const i64* sides, i64 c) : size{sides[0], sides[1], sides[2]}, channels(c) {
    stride[2] = c;
    stride[1] = sides[2] * c;
    stride[0] = sides[1] * stride[1];
    batch_stride = sides[0] * stride[0];
  }
};

TESSERA_INLINE vf get(const float* p, int n) { return n == VL ? load(p) : load_part(p, n); }
TESSERA_INLINE void put(float* p, vf x, int n) { n == VL ? store(p, x) : store_part(p, x, n); }

/** A stride convolution of one side to another, whichever pass it is. */
struct Pass {
  i64 batch;
  i64 in[3], out[3], pad[3];
  i64 ci, co;
  i64 frames = 1;  // taps along time that are summed up one by one, where the engine has none
};

/** Where the positions of a tile lie: anywhere (zeros among them), or evenly inside of a tensor. */
struct Listed {
  const float* const* at;
  int sides;
  TESSERA_INLINE const float* operator()(int i, int j, int k) const { return at[(i * sides + j) * sides + k]; }
};
struct Even {
  const float* base;
  i64 st, sh, sw;
  TESSERA_INLINE const float* operator()(int i, int j, int k) const { return base + i * st + j * sh + k * sw; }
};

template <class T, class S>
struct Engine {
  static constexpr int PT = T::points, PS = S::points, MT = T::outputs, MS = S::outputs;
  static constexpr int P = PT * PS * PS;

  i64 batch, grid[3];  // tiles along each axis
  i64 tiles;

  Engine(i64 b, const i64* out) : batch(b) {
    grid[0] = ceil_div(out[0], MT);
    grid[1] = ceil_div(out[1], MS);
    grid[2] = ceil_div(out[2], MS);
    tiles = batch * grid[0] * grid[1] * grid[2];
  }

  struct Place {
    i64 b, t, h, w;
  };
  Place place(i64 tile) const {
    return {tile / (grid[2] * grid[1] * grid[0]), tile / (grid[2] * grid[1]) % grid[0] * MT,
            tile / grid[2] % grid[1] * MS, tile % grid[2] * MS};
  }

  /** Pointers to the NT × NS × NS positions from (t, h, w), to zeros where there is none. */
  template <int NT, int NS>
  static void positions(const Side& side, const float* x, i64 b, i64 t, i64 h, i64 w, const float* zeros,
                        const float** out) {
    const float* batch = x + b * side.batch_stride;
    for (int i = 0; i < NT; i++) {
      const bool in_t = t + i >= 0 && t + i < side.size[0];
      for (int j = 0; j < NS; j++) {
        const bool in_h = in_t && h + j >= 0 && h + j < side.size[1];
        const float* line = batch + (t + i) * side.stride[0] + (h + j) * side.stride[1] + w * side.stride[2];
        for (int k = 0; k < NS; k++) {
          const bool inside = in_h && w + k >= 0 && w + k < side.size[2];
          *out++ = inside ? line + k * side.stride[2] : zeros;
        }
      }
    }
  }

  /** Half of the columns of one frame's PS × PS values, transformed along both axes. */
  template <bool FULL, bool SECOND, class At>
  static TESSERA_INLINE void plane(const At& at, int i, i64 c, int n, vf* out) {
    constexpr int begin = SECOND ? S::half : 0, width = SECOND ? PS - S::half : S::half;
    vf rows[PS][PS];
#pragma GCC unroll 8
    for (int j = 0; j < PS; j++) {
      vf d[PS];
#pragma GCC unroll 8
      for (int k = 0; k < PS; k++) {
        const float* p = at(i, j, k) + c;
        d[k] = FULL ? load(p) : load_part(p, n);
      }
      S::template input_half<SECOND>(d, rows[j]);
    }
#pragma GCC unroll 8
    for (int k = 0; k < width; k++) {
      vf d[PS], e[PS];
#pragma GCC unroll 8
      for (int j = 0; j < PS; j++) d[j] = rows[j][k];
      S::input(d, e);
#pragma GCC unroll 8
      for (int j = 0; j < PS; j++) out[j * PS + begin + k] = e[j];
    }
  }

  /** v[point · step] of one vector of channels from PT × PS × PS positions. */
  template <bool FULL, class At>
  static __attribute__((noinline)) void transform_input(At at, i64 c, int n, float* v, i64 step) {
    vf line[P];
    for (int i = 0; i < PT; i++) {
      plane<FULL, false>(at, i, c, n, line + i * PS * PS);
      if constexpr (S::half < PS) plane<FULL, true>(at, i, c, n, line + i * PS * PS);
    }
    for (int s = 0; s < PS * PS; s++) {
      vf d[PT], e[PT];
#pragma GCC unroll 8
      for (int i = 0; i < PT; i++) d[i] = line[i * PS * PS + s];
      T::input(d, e);
#pragma GCC unroll 8
      for (int i = 0; i < PT; i++) store(v + (i * PS * PS + s) * step, e[i]);
    }
  }

  /** Channels [c, c + depth) of one tile's values, transformed, to v. */
  static void transform_tile(const Pass& pass, const Side& from, const float* x, const Place& q,
                             const float* zeros, const float** at, i64 c, i64 depth, float* v, i64 step,
                             i64 frame = 0) {
    const i64 t = q.t - pass.pad[0] + frame, h = q.h - pass.pad[1], w = q.w - pass.pad[2];
    if (t >= 0 && h >= 0 && w >= 0 && t + PT <= from.size[0] && h + PS <= from.size[1] && w + PS <= from.size[2]) {
      const float* base = x + q.b * from.batch_stride + t * from.stride[0] + h * from.stride[1] + w * from.stride[2];
      transform_vectors(Even{base, from.stride[0], from.stride[1], from.stride[2]}, c, depth, v, step);
    } else {
      positions<PT, PS>(from, x, q.b, t, h, w, zeros, at);
      transform_vectors(Listed{at, PS}, c, depth, v, step);
    }
  }
  template <class At>
  static void transform_vectors(const At& at, i64 c, i64 depth, float* v, i64 step) {
    for (i64 k = 0; k < depth; k += VL) {
      if (k + VL <= depth) {
        transform_input<true>(at, c + k, VL, v + k, step);
      } else {
        transform_input<false>(at, c + k, static_cast<int>(depth - k), v + k, step);
      }
    }
  }

  /** The same of MT × MS × MS positions of a gradient. */
  template <bool FULL>
  static __attribute__((noinline)) void transform_gradient(const float* const* at, i64 c, int n, float* m,
                                                           i64 step) {
    vf line[MT * PS * PS];
    for (int i = 0; i < MT; i++) {
      vf half[MS * PS];
      for (int j = 0; j < MS; j++) {
        vf d[MS];
#pragma GCC unroll 8
        for (int k = 0; k < MS; k++) {
          const float* p = at[(i * MS + j) * MS + k] + c;
          d[k] = FULL ? load(p) : load_part(p, n);
        }
        S::output_adjoint(d, half + j * PS);
      }
      for (int k = 0; k < PS; k++) {
        vf d[MS], e[PS];
#pragma GCC unroll 8
        for (int j = 0; j < MS; j++) d[j] = half[j * PS + k];
        S::output_adjoint(d, e);
#pragma GCC unroll 8
        for (int j = 0; j < PS; j++) line[(i * PS + j) * PS + k] = e[j];
      }
    }
    for (int s = 0; s < PS * PS; s++) {
      vf d[MT], e[PT];
#pragma GCC unroll 8
      for (int i = 0; i < MT; i++) d[i] = line[i * PS * PS + s];
      T::output_adjoint(d, e);
#pragma GCC unroll 8
      for (int i = 0; i < PT; i++) store(m + (i * PS * PS + s) * step, e[i]);
    }
  }

  /** The results of one tile and vector of channels: out[MT][MS][MS]. */
  static __attribute__((noinline)) void transform_output(const float* m, i64 step, vf* out) {
    vf line[MT * PS * PS];
    for (int s = 0; s < PS * PS; s++) {
      vf d[PT], e[MT];
#pragma GCC unroll 8
      for (int i = 0; i < PT; i++) d[i] = load(m + (i * PS * PS + s) * step);
      T::output(d, e);
#pragma GCC unroll 8
      for (int i = 0; i < MT; i++) line[i * PS * PS + s] = e[i];
    }
    for (int i = 0; i < MT; i++) {
      vf half[MS * PS];
      for (int k = 0; k < PS; k++) {
        vf d[PS], e[MS];
#pragma GCC unroll 8
        for (int j = 0; j < PS; j++) d[j] = line[(i * PS + j) * PS + k];
        S::output(d, e);
#pragma GCC unroll 8
        for (int j = 0; j < MS; j++) half[j * PS + k] = e[j];
      }
      for (int j = 0; j < MS; j++) S::output(half + j * PS, out + (i * MS + j) * MS);
    }
  }

  /** u = G f for one vector: f and u by tap and point with the given steps. */
  static __attribute__((noinline)) void transform_filter(const float* f, i64 step, int n, float* u,
                                                         i64 point) {
    constexpr int KT = T::taps, KS = S::taps;
    vf a[KT][KS][PS];
    for (int t = 0; t < KT; t++) {
      for (int h = 0; h < KS; h++) {
        vf g[KS];
#pragma GCC unroll 4
        for (int w = 0; w < KS; w++) g[w] = get(f + ((t * KS + h) * KS + w) * step, n);
        S::filter(g, a[t][h]);
      }
    }
    vf b[KT][PS][PS];
    for (int t = 0; t < KT; t++) {
      for (int k = 0; k < PS; k++) {
        vf g[KS], e[PS];
#pragma GCC unroll 4
        for (int h = 0; h < KS; h++) g[h] = a[t][h][k];
        S::filter(g, e);
#pragma GCC unroll 8
        for (int j = 0; j < PS; j++) b[t][j][k] = e[j];
      }
    }
    for (int j = 0; j < PS; j++) {
      for (int k = 0; k < PS; k++) {
        vf g[KT], e[PT];
#pragma GCC unroll 4
        for (int t = 0; t < KT; t++) g[t] = b[t][j][k];
        T::filter(g, e);
#pragma GCC unroll 8
        for (int i = 0; i < PT; i++) store(u + ((i * PS + j) * PS + k) * point, e[i]);
      }
    }
  }

  /** f = Gᵀ u, the other way. */
  static __attribute__((noinline)) void transform_filter_gradient(const float* u, i64 point, float* f,
                                                                  i64 step, int n) {
    constexpr int KT = T::taps, KS = S::taps;
    vf b[KT][PS][PS];
    for (int j = 0; j < PS; j++) {
      for (int k = 0; k < PS; k++) {
        vf e[PT], g[KT];
#pragma GCC unroll 8
        for (int i = 0; i < PT; i++) e[i] = load(u + ((i * PS + j) * PS + k) * point);
        T::filter_adjoint(e, g);
#pragma GCC unroll 4
        for (int t = 0; t < KT; t++) b[t][j][k] = g[t];
      }
    }
    for (int t = 0; t < KT; t++) {
      vf a[KS][PS];
      for (int k = 0; k < PS; k++) {
        vf e[PS], g[KS];
#pragma GCC unroll 8
        for (int j = 0; j < PS; j++) e[j] = b[t][j][k];
        S::filter_adjoint(e, g);
#pragma GCC unroll 4
        for (int h = 0; h < KS; h++) a[h][k] = g[h];
      }
      for (int h = 0; h < KS; h++) {
        vf g[KS];
        S::filter_adjoint(a[h], g);
#pragma GCC unroll 4
        for (int w = 0; w < KS; w++) put(f + ((t * KS + h) * KS + w) * step, g[w], n);
      }
    }
  }

  /** y from x and filter [taps, ci, co]. */
  void convolve(const Pass& pass, const float* x, const float* filter, float* y, const ConvExtra& extra) const {
    const i64 ci = pass.ci, co = pass.co, cv = round_up(ci, VL), ov = round_up(co, VL);
    const i64 frames = pass.frames;
    if (frames == 1 && P * ci * ov > kNarrow) return convolve_wide(pass, x, filter, y, extra);
    const i64 panels = ceil_div(ov, NR);
    const i64 panel = ci * NR;               // floats a panel of u: [ci, NR]
    const i64 point = panels * panel;        // floats a point of u
    float* u = shared_scratch(0, frames * P * point);
    float* zeros = shared_scratch(1, cv);
    std::fill(zeros, zeros + cv, 0.0f);
    parallel_for(frames * ci, 1, [&](i64 begin, i64 end, int) {
      for (i64 i = begin; i < end; i++) {
        const i64 k = i % ci, frame = i / ci;
        const float* taps = filter + frame * (T::taps * S::taps * S::taps) * ci * co;
        for (i64 o = 0; o < ov; o += VL) {
          transform_filter(taps + k * co + o, ci * co, static_cast<int>(std::min<i64>(VL, co - o)),
                           u + frame * P * point + o / NR * panel + k * NR + o % NR, point);
        }
      }
    });
    // Slices of channels, so that a block of a few tiles at least stays in the cache.
    const i64 is = std::min<i64>(cv, kSlice), os = std::min<i64>(ov, kSlice);
    i64 n = kBlockFloats / (P * (is + os));
    n = std::clamp<i64>(n, 4, 56);
    n = std::min(n, std::max<i64>(1, ceil_div(tiles, threads())));
    const i64 blocks = ceil_div(tiles, n);
    const i64 vp = n * is + VL, mp = n * os + VL;  // floats a point; not a power of two
    const Side from(pass.in, ci), to(pass.out, co);
    const i64 slices = ceil_div(ci, is);
    const bool once = cv <= is && frames == 1;
    parallel_for(blocks, 1, [&](i64 begin, i64 end, int thread) {
      float* v = thread_scratch(thread, 0, P * vp);
      float* m = thread_scratch(thread, 1, P * mp);
      const float** at = reinterpret_cast<const float**>(thread_scratch(thread, 2, 2 * P));
      for (i64 block = begin; block < end; block++) {
        const i64 first = block * n, count = std::min(n, tiles - first);
        for (i64 o = 0; o < ov; o += os) {
          const i64 width = std::min(os, ov - o);
          for (i64 part = 0; part < frames * slices; part++) {
            const i64 frame = part / slices, c = part % slices * is, depth = std::min(is, ci - c);
            if (o == 0 || !once) {
              for (i64 i = 0; i < count; i++) {
                transform_tile(pass, from, x, place(first + i), zeros, at, c, depth, v + i * is, vp, frame);
              }
            }
            const Store how = part == 0 ? Store::set : Store::add;
            const float* taps = u + frame * P * point + o / NR * panel + c * NR;
            for (i64 p = 0; p < P; p++) {
              tessera::tiles(count, width / VL, depth, v + p * vp, is, 1, taps + p * point, panel, m + p * mp, os, how);
            }
          }
          for (i64 i = 0; i < count; i++) {
            write(to, place(first + i), m + i * os, mp, o, std::min(width, co - o), y, extra);
          }
        }
      }
    });
  }

  /**
   * The same where the transformed filter is too large to be read again for every block: the tiles are
   * transformed first, for all threads; then each thread takes slices of the result's channels, whose
   * filters it transforms for itself.
   */
  void convolve_wide(const Pass& pass, const float* x, const float* filter, float* y,
                     const ConvExtra& extra) const {
    const i64 ci = pass.ci, co = pass.co, cv = round_up(ci, VL);
    const i64 slices = ceil_div(co, NR);
    const i64 chunk = std::clamp<i64>(kWideFloats / (P * cv), 8, tiles);
    const i64 vp = chunk * cv + VL;
    const i64 depths = ceil_div(P * ci * NR, kFilterFloats), deep = ceil_div(ci, depths);
    float* v = shared_scratch(0, P * vp);
    float* zeros = shared_scratch(1, cv);
    std::fill(zeros, zeros + cv, 0.0f);
    const Side from(pass.in, ci), to(pass.out, co);
    for (i64 first = 0; first < tiles; first += chunk) {
      const i64 count = std::min(chunk, tiles - first);
      parallel_for(count, 1, [&](i64 begin, i64 end, int thread) {
        const float** at = reinterpret_cast<const float**>(thread_scratch(thread, 2, 2 * P));
        for (i64 i = begin; i < end; i++) {
          transform_tile(pass, from, x, place(first + i), zeros, at, 0, ci, v + i * cv, vp);
        }
      });
      const i64 groups = std::min(count, ceil_div(threads(), slices));
      parallel_for(slices * groups, 1, [&](i64 begin, i64 end, int thread) {
        for (i64 task = begin; task < end; task++) {
          const i64 o = task / groups * NR, group = task % groups;
          const i64 g0 = count * group / groups, g1 = count * (group + 1) / groups;
          const i64 vectors = ceil_div(std::min<i64>(NR, co - o), VL);
          const i64 n = deep == ci ? std::min(g1 - g0, std::max<i64>(8, kProductFloats / (P * NR))) : g1 - g0;
          const i64 mp = n * NR + VL, up = deep * NR;
          float* m = thread_scratch(thread, 0, P * mp);
          float* u = thread_scratch(thread, 1, P * up);
          for (i64 c = 0; c < ci; c += deep) {
            const i64 depth = std::min(deep, ci - c);
            for (i64 k = 0; k < depth; k++) {
              for (i64 j = 0; j < vectors * VL; j += VL) {
                transform_filter(filter + (c + k) * co + o + j, ci * co,
                                 static_cast<int>(std::min<i64>(VL, co - o - j)), u + k * NR + j, up);
              }
            }
            for (i64 b = g0; b < g1; b += n) {
              const i64 rows = std::min(n, g1 - b);
              for (i64 p = 0; p < P; p++) {
                tessera::tiles(rows, vectors, depth, v + p * vp + b * cv + c, cv, 1, u + p * up, 0, m + p * mp, NR,
                               c == 0 ? Store::set : Store::add);
              }
              if (c + depth < ci) continue;
              for (i64 i = 0; i < rows; i++) {
                write(to, place(first + b + i), m + i * NR, mp, o, std::min<i64>(NR, co - o), y, extra);
              }
            }
          }
        }
      });
    }
  }

  void write(const Side& to, const Place& q, const float* m, i64 step, i64 o, i64 width, float* y,
             const ConvExtra& extra) const {
    const int nt = static_cast<int>(std::min<i64>(MT, to.size[0] - q.t));
    const int nh = static_cast<int>(std::min<i64>(MS, to.size[1] - q.h));
    const int nw = static_cast<int>(std::min<i64>(MS, to.size[2] - q.w));
    const i64 base = q.b * to.batch_stride + q.t * to.stride[0] + q.h * to.stride[1] + q.w * to.stride[2] + o;
    for (i64 k = 0; k < width; k += VL) {
      const int n = static_cast<int>(std::min<i64>(VL, width - k));
      vf out[MT * MS * MS];
      transform_output(m + k, step, out);
      const vf bias = extra.bias ? get(extra.bias + o + k, n) : vf{};
      for (int t = 0; t < nt; t++) {
        for (int h = 0; h < nh; h++) {
          const i64 at = base + t * to.stride[0] + h * to.stride[1] + k;
          for (int w = 0; w < nw; w++) {
            vf value = out[(t * MS + h) * MS + w] + bias;
            const i64 here = at + w * to.stride[2];
            if (extra.residual) value += get(extra.residual + here, n);
            put(y + here, value, n);
          }
        }
      }
    }
  }

  /** dfilter [taps, ci, co] from x and dy. */
  void filter_gradient(const Pass& pass, const float* x, const float* dy, float* df) const {
    const i64 ci = pass.ci, co = pass.co, cv = round_up(ci, VL), ov = round_up(co, VL);
    const i64 os = std::min<i64>(ov, kGradSlice);
    i64 n = kChunkFloats / (P * (cv + os));
    n = std::clamp<i64>(n, 16, 256);
    n = std::min(n, tiles);
    const i64 chunks = ceil_div(tiles, n);
    const i64 vp = n * cv + VL, mp = n * round_up(os, NR) + VL, up = cv * os + VL;
    float* v = shared_scratch(0, P * vp);
    float* m = shared_scratch(1, P * mp);
    float* u = shared_scratch(2, P * up);
    float* zeros = shared_scratch(3, std::max(cv, ov));
    std::fill(zeros, zeros + std::max(cv, ov), 0.0f);
    const Side from(pass.in, ci), to(pass.out, co);
    for (i64 o = 0; o < co; o += os) {
      const i64 width = std::min(os, co - o);
      const i64 vectors = ceil_div(width, VL), panels = ceil_div(vectors, 2);
      for (i64 chunk = 0; chunk < chunks; chunk++) {
        const i64 first = chunk * n, count = std::min(n, tiles - first);
        const bool both = chunks > 1 || o == 0;
        parallel_for(count, 1, [&](i64 begin, i64 end, int thread) {
          const float** at = reinterpret_cast<const float**>(thread_scratch(thread, 2, 2 * P));
          for (i64 i = begin; i < end; i++) {
            const Place q = place(first + i);
            if (both) {
              transform_tile(pass, from, x, q, zeros, at, 0, ci, v + i * cv, vp);
            }
            positions<MT, MS>(to, dy, q.b, q.t, q.h, q.w, zeros, at);
            for (i64 k = 0; k < width; k += VL) {
              // [panel][tile][NR]
              float* out = m + k / NR * n * NR + i * NR + k % NR;
              if (k + VL <= width) {
                transform_gradient<true>(at, o + k, VL, out, mp);
              } else {
                transform_gradient<false>(at, o + k, static_cast<int>(width - k), out, mp);
              }
            }
          }
        });
        (void)panels;
        parallel_for(P, 1, [&](i64 begin, i64 end, int) {
          for (i64 p = begin; p < end; p++) {
            tessera::tiles(ci, vectors, count, v + p * vp, 1, cv, m + p * mp, n * NR, u + p * up, os,
                           chunk == 0 ? Store::set : Store::add);
          }
        });
      }
      parallel_for(ci, 1, [&](i64 begin, i64 end, int) {
        for (i64 c = begin; c < end; c++) {
          for (i64 k = 0; k < width; k += VL) {
            transform_filter_gradient(u + c * os + k, up, df + c * co + o + k, ci * co,
                                      static_cast<int>(std::min<i64>(VL, width - k)));
          }
        }
      });
    }
  }

  /** Values of a transformed filter up to which every block reads it again. */
  static constexpr i64 kNarrow = 1200 * 1024;
  static constexpr i64 kWideFloats = 2560 * 1024;    // transformed tiles for all threads
  static constexpr i64 kFilterFloats = 512 * 1024;   // a thread's transformed filters
  static constexpr i64 kProductFloats = 128 * 1024;  // and products
  static constexpr i64 kSlice = 128;
  static constexpr i64 kBlockFloats = 200 * 1024;
  static constexpr i64 kGradSlice = 64;
  static constexpr i64 kChunkFloats = 2 * 1024 * 1024;
};

/** Estimated cost of one pass in vector instructions, for the choice of an algorithm. */
template <class T, class S>
double cost(const Pass& p, bool gradient) {
  using E = Engine<T, S>;
  const E engine(p.batch, p.out);
  const double ci = static_cast<double>(round_up(p.ci, VL)) / VL, co = static_cast<double>(round_up(p.co, VL)) / VL;
  const double products = static_cast<double>(engine.tiles) * E::P * static_cast<double>(p.ci) * co / 2 * 1.15;
  const double transforms = static_cast<double>(engine.tiles) * E::P * (3.5 * ci + (gradient ? 3.5 : 2.5) * co);
  const double filter = static_cast<double>(p.ci) * co * E::P * (gradient ? 6 : 4);
  return products + transforms + filter;
}

/** Values of a transformed filter up to which exact convolutions use one: 64 MiB. */
constexpr i64 kExactFloats = 16 * 1024 * 1024;

/**
 * For exact convolutions: Toom-Cook within frames, their taps along time summed up one by one. A frame then
 * depends on the frames under its kernel alone, and the choice on nothing but a frame's size.
 */
template <class F>
bool choose_exact(Pass p, const i64* kernel, F f) {
  Pass frame = p;
  frame.batch = frame.out[0] = 1;
  p.frames = kernel[0];
  if (kernel[0] * 36 * p.ci * round_up(p.co, VL) > kExactFloats) return false;
  const double taps = static_cast<double>(kernel[0]);
  const double plain = 1.1 * static_cast<double>(p.out[1] * p.out[2] * 9) * static_cast<double>(p.ci) *
                       static_cast<double>(round_up(p.co, VL) / VL) / 2 * taps;
  const double two = taps * cost<Single, Toom<1>>(frame, false), four = taps * cost<Single, Toom<2>>(frame, false);
  if (std::min(two, four) >= plain) return false;
  two < four ? f(p, Engine<Single, Toom<1>>(p.batch, p.out)) : f(p, Engine<Single, Toom<2>>(p.batch, p.out));
  return true;
}

template <class F>
bool choose(const Pass& p, const i64* kernel, bool gradient, F f) {
  const bool time = kernel[0] == 3;
  double best = 1.1 * static_cast<double>(p.batch * p.out[0] * p.out[1] * p.out[2]) *
                static_cast<double>(kernel[0] * 9) * static_cast<double>(p.ci) *
                static_cast<double>(round_up(p.co, VL) / VL) / 2;
  int which = 0;
  const auto consider = [&](double c, int id) {
    if (c < best) {
      best = c;
      which = id;
    }
  };
  if (const char* force = std::getenv("TESSERA_WINOGRAD")) {
    which = std::atoi(force);
    if (!time && which) which = which == 1 ? 5 : 6;
  } else if (time) {
    consider(cost<Toom<1>, Toom<1>>(p, gradient), 1);
    consider(cost<Toom<1>, Toom<2>>(p, gradient), 2);
    consider(cost<Toom<2>, Toom<2>>(p, gradient), 3);
    consider(cost<Toom<3>, Toom<2>>(p, gradient), 4);
  } else {
    consider(cost<Single, Toom<1>>(p, gradient), 5);
    consider(cost<Single, Toom<2>>(p, gradient), 6);
  }
  switch (which) {
    case 1: f(Engine<Toom<1>, Toom<1>>(p.batch, p.out)); return true;
    case 2: f(Engine<Toom<1>, Toom<2>>(p.batch, p.out)); return true;
    case 3: f(Engine<Toom<2>, Toom<2>>(p.batch, p.out)); return true;
    case 4: f(Engine<Toom<3>, Toom<2>>(p.batch, p.out)); return true;
    case 5: f(Engine<Single, Toom<1>>(p.batch, p.out)); return true;
    case 6: f(Engine<Single, Toom<2>>(p.batch, p.out)); return true;
    default: return false;
  }
}

bool suits(const Conv& c) {
  if (c.groups != 1 || c.kernel[1] != 3 || c.kernel[2] != 3) return false;
  if (c.kernel[0] != 3 && c.kernel[0] != 1) return false;
  for (int a = 0; a < 3; a++) {
    if (c.stride[a] != 1 || c.dilation[a] != 1) return false;
  }
  return c.ci > 0 && c.co > 0 && c.batch * c.out[0] * c.out[1] * c.out[2] > 0;
}

Pass pass_of(const Conv& c) {
  return {c.batch, {c.in[0], c.in[1], c.in[2]}, {c.out[0], c.out[1], c.out[2]}, {c.pad[0], c.pad[1], c.pad[2]}, c.ci, c.co};
}

}  // namespace

bool winograd_forward(const Conv& c, const float* x, const float* filter, float* y, const ConvExtra& extra) {
  if (!suits(c)) return false;
  const Pass p = pass_of(c);
  if (c.exact) {
    return choose_exact(p, c.kernel, [&](const Pass& pass, const auto& engine) {
      engine.convolve(pass, x, filter, y, extra);
    });
  }
  return choose(p, c.kernel, false, [&](const auto& engine) { engine.convolve(p, x, filter, y, extra); });
}

bool winograd_input_grad(const Conv& c, const float* dy, const float* filter, float* dx, const ConvExtra& extra) {
  if (c.exact || !suits(c)) return false;
  Pass p = pass_of(c);  // of dy to dx: taps reversed, channels swapped
  for (int a = 0; a < 3; a++) {
    std::swap(p.in[a], p.out[a]);
    p.pad[a] = c.kernel[a] - 1 - p.pad[a];
  }
  std::swap(p.ci, p.co);
  if (p.batch * p.out[0] * p.out[1] * p.out[2] == 0) return false;
  return choose(p, c.kernel, false, [&](const auto& engine) {
    engine.convolve(p, dy, reversed_filter(c, filter), dx, extra);
  });
}

bool winograd_filter_grad(const Conv& c, const float* x, const float* dy, float* df) {
  if (c.exact || !suits(c)) return false;
  const Pass p = pass_of(c);
  return choose(p, c.kernel, true, [&](const auto& engine) { engine.filter_gradient(p, x, dy, df); });
}

const float* reversed_filter(const Conv& c, const float* filter) {
  const i64 taps = c.kernel[0] * c.kernel[1] * c.kernel[2], ci = c.ci, co = c.co;
  float* out = shared_scratch(7, taps * ci * co);
  constexpr i64 B = 16;
  const i64 rows = ceil_div(ci, B);
  parallel_for(taps * rows, 1, [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; r++) {
      const i64 tap = r / rows, i0 = r % rows * B, i1 = std::min(ci, i0 + B);
      const float* from = filter + (taps - 1 - tap) * ci * co;
      float* to = out + tap * ci * co;
      for (i64 o0 = 0; o0 < co; o0 += B) {
        const i64 o1 = std::min(co, o0 + B);
        for (i64 o = o0; o < o1; o++) {
          for (i64 i = i0; i < i1; i++) to[o * ci + i] = from[i * co + o];
        }
      }
    }
  });
  return out;
}

}  // namespace tessera
