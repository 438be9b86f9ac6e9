/** Maxima over windows of clips [B, T, H, W, C] and their gradient; images have one frame. */
#include <algorithm>
#include <limits>

#include "program.h"

namespace tessera::exec {
namespace {

struct Axis {
  i64 size, stride, before, inputs, outputs;
  i64 first(i64 o) const { return std::max<i64>(0, o * stride - before); }
  i64 end(i64 o) const { return std::min(inputs, o * stride - before + size); }
};

struct Pool {
  i64 batch, channels;
  Axis t, h, w;
};

Axis read_axis(Spec& spec) {
  Axis axis{};
  axis.size = spec.next();
  axis.stride = spec.next();
  axis.before = spec.next();
  axis.inputs = spec.next();
  axis.outputs = spec.next();
  return axis;
}

Pool read_pool(Spec& spec) {
  Pool pool{};
  pool.batch = spec.next();
  pool.channels = spec.next();
  pool.t = read_axis(spec);
  pool.h = read_axis(spec);
  pool.w = read_axis(spec);
  return pool;
}

/** Calls at(input position) for each position of an output's window, in order. */
template <typename F>
void window(const Pool& p, i64 b, i64 t, i64 h, i64 w, F&& at) {
  for (i64 i = p.t.first(t); i < p.t.end(t); i++) {
    for (i64 j = p.h.first(h); j < p.h.end(h); j++) {
      for (i64 k = p.w.first(w); k < p.w.end(w); k++) {
        at(((b * p.t.inputs + i) * p.h.inputs + j) * p.w.inputs + k);
      }
    }
  }
}

template <typename F>
void for_outputs(const Pool& p, i64 b, F&& f) {
  i64 out = b * p.t.outputs * p.h.outputs * p.w.outputs;
  for (i64 t = 0; t < p.t.outputs; t++) {
    for (i64 h = 0; h < p.h.outputs; h++) {
      for (i64 w = 0; w < p.w.outputs; w++) {
        f(out++, t, h, w);
      }
    }
  }
}

template <typename T>
void pool_max(const Pool& p, const T* x, T* y) {
  const T lowest = std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity()
                                                        : std::numeric_limits<T>::lowest();
  parallel_for(p.batch, 1, [&](i64 begin, i64 end, int) {
    for (i64 b = begin; b < end; b++) {
      for_outputs(p, b, [&](i64 out, i64 t, i64 h, i64 w) {
        T* best = y + out * p.channels;
        std::fill(best, best + p.channels, lowest);
        window(p, b, t, h, w, [&](i64 in) {
          const T* row = x + in * p.channels;
          for (i64 c = 0; c < p.channels; c++) {
            best[c] = row[c] > best[c] || row[c] != row[c] ? row[c] : best[c];
          }
        });
      });
    }
  });
}

/** Integers: is int32, batch, channels, and of each axis size, stride, before, inputs, outputs. */
Step max_pool(Spec& spec) {
  const i64 whole = spec.next();
  const Pool pool = read_pool(spec);
  return [=](const Run& run) {
    if (whole != 0) {
      pool_max(pool, run.at<std::int32_t>(spec.inputs[0]), run.at<std::int32_t>(spec.outputs[0]));
    } else {
      pool_max(pool, run.floats(spec.inputs[0]), run.floats(spec.outputs[0]));
    }
  };
}

/** dx from dy and x: each output's gradient goes to the first of its window's largest values. */
Step max_pool_grad(Spec& spec) {
  const Pool p = read_pool(spec);
  return [=](const Run& run) {
    const float* dy = run.floats(spec.inputs[0]);
    const float* x = run.floats(spec.inputs[1]);
    float* dx = run.floats(spec.outputs[0]);
    const i64 clip = p.t.inputs * p.h.inputs * p.w.inputs * p.channels;
    parallel_for(p.batch, 1, [&](i64 begin, i64 end, int) {
      std::vector<i64> place(p.channels);
      for (i64 b = begin; b < end; b++) {
        std::fill(dx + b * clip, dx + (b + 1) * clip, 0.0f);
        for_outputs(p, b, [&](i64 out, i64 t, i64 h, i64 w) {
          bool started = false;
          window(p, b, t, h, w, [&](i64 in) {
            const float* row = x + in * p.channels;
            for (i64 c = 0; c < p.channels; c++) {
              if (!started || row[c] > x[place[c] * p.channels + c]) {
                place[c] = in;
              }
            }
            started = true;
          });
          for (i64 c = 0; started && c < p.channels; c++) {
            dx[place[c] * p.channels + c] += dy[out * p.channels + c];
          }
        });
      }
    });
  };
}

}  // namespace

std::vector<StepKind> pooling_steps() {
  return {{"MaxPool", max_pool}, {"MaxPoolGrad", max_pool_grad}};
}

}  // namespace tessera::exec
