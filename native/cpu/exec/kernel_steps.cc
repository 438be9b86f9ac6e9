/** Steps that are one call of the kernel library each (../kernels/kernels.h). */
#include <algorithm>

#include "program.h"

namespace tessera::exec {
namespace {

/** The optional output at `index`. */
float* output_or_null(const Run& run, const Spec& spec, std::size_t index) {
  return index < spec.outputs.size() ? run.floats(spec.outputs[index]) : nullptr;
}
const float* input_or_null(const Run& run, const Spec& spec, std::size_t index) {
  return index < spec.inputs.size() ? run.floats(spec.inputs[index]) : nullptr;
}

void read3(Spec& spec, i64 (&values)[3]) {
  for (i64& value : values) {
    value = spec.next();
  }
}

/** Integers: batch, in, out (3 each), ci, co, kernel, stride, pad, dilation (3 each), groups, exact. */
Conv read_conv(Spec& spec) {
  Conv conv;
  conv.batch = spec.next();
  read3(spec, conv.in);
  read3(spec, conv.out);
  conv.ci = spec.next();
  conv.co = spec.next();
  read3(spec, conv.kernel);
  read3(spec, conv.stride);
  read3(spec, conv.pad);
  read3(spec, conv.dilation);
  conv.groups = spec.next();
  conv.exact = spec.next() != 0;
  return conv;
}

/** After a convolution's numbers: whether a bias and whether a residual follow the two operands. */
struct Extras {
  bool bias, residual;
  ConvExtra at(const Run& run, const Spec& spec) const {
    ConvExtra extra;
    std::size_t index = 2;
    extra.bias = bias ? run.floats(spec.inputs[index++]) : nullptr;
    extra.residual = residual ? run.floats(spec.inputs[index]) : nullptr;
    return extra;
  }
};

Step conv_step(Spec& spec) {
  const Conv conv = read_conv(spec);
  const bool bias = spec.next() != 0;
  const Extras extras{bias, spec.next() != 0};
  return [=](const Run& run) {
    conv_forward(conv, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]),
                 run.floats(spec.outputs[0]), extras.at(run, spec));
  };
}

Step conv_input_step(Spec& spec) {
  const Conv conv = read_conv(spec);
  const bool bias = spec.next() != 0;
  const Extras extras{bias, spec.next() != 0};
  return [=](const Run& run) {
    conv_input_grad(conv, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]),
                    run.floats(spec.outputs[0]), extras.at(run, spec));
  };
}

Step conv_filter_step(Spec& spec) {
  const Conv conv = read_conv(spec);
  return [=](const Run& run) {
    conv_filter_grad(conv, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]),
                     run.floats(spec.outputs[0]));
  };
}

/** Integers: batch, positions, channels, groups, SiLU. Number: epsilon. */
GroupNorm read_group_norm(Spec& spec) {
  GroupNorm norm;
  norm.batch = spec.next();
  norm.positions = spec.next();
  norm.channels = spec.next();
  norm.groups = spec.next();
  norm.silu = spec.next() != 0;
  norm.epsilon = static_cast<float>(spec.number());
  return norm;
}

/** x, scale, shift to y and, where asked for, mean and rstd. */
Step group_norm_step(Spec& spec) {
  const GroupNorm norm = read_group_norm(spec);
  return [=](const Run& run) {
    group_norm(norm, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]),
               run.floats(spec.inputs[2]), run.floats(spec.outputs[0]),
               output_or_null(run, spec, 1), output_or_null(run, spec, 2));
  };
}

/** x, scale, shift, dy and, where kept, mean and rstd to dx, dscale, dshift. */
Step group_norm_grad_step(Spec& spec) {
  const GroupNorm norm = read_group_norm(spec);
  return [=](const Run& run) {
    group_norm_grad(norm, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]),
                    run.floats(spec.inputs[2]), run.floats(spec.inputs[3]),
                    run.floats(spec.outputs[0]), run.floats(spec.outputs[1]),
                    run.floats(spec.outputs[2]), input_or_null(run, spec, 4),
                    input_or_null(run, spec, 5));
  };
}

/** Integers: rows, channels. Number: epsilon. Operands as of group norm. */
Step layer_norm_step(Spec& spec) {
  const i64 rows = spec.next(), channels = spec.next();
  const float epsilon = static_cast<float>(spec.number());
  return [=](const Run& run) {
    layer_norm(rows, channels, epsilon, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]),
               run.floats(spec.inputs[2]), run.floats(spec.outputs[0]),
               output_or_null(run, spec, 1), output_or_null(run, spec, 2));
  };
}

/** x, scale, dy and, where kept, mean and rstd to dx, dscale, dshift. */
Step layer_norm_grad_step(Spec& spec) {
  const i64 rows = spec.next(), channels = spec.next();
  const float epsilon = static_cast<float>(spec.number());
  return [=](const Run& run) {
    layer_norm_grad(rows, channels, epsilon, run.floats(spec.inputs[0]),
                    run.floats(spec.inputs[1]), run.floats(spec.inputs[2]),
                    run.floats(spec.outputs[0]), run.floats(spec.outputs[1]),
                    run.floats(spec.outputs[2]), input_or_null(run, spec, 3),
                    input_or_null(run, spec, 4));
  };
}

/** Integers: rows, n. */
Step softmax_step(Spec& spec) {
  const i64 rows = spec.next(), n = spec.next();
  return [=](const Run& run) {
    softmax(rows, n, run.floats(spec.inputs[0]), run.floats(spec.outputs[0]));
  };
}

/** logits, labels to losses. Integers: rows, n. Number: smoothing. */
Step cross_entropy_step(Spec& spec) {
  const i64 rows = spec.next(), n = spec.next();
  const float smoothing = static_cast<float>(spec.number());
  return [=](const Run& run) {
    softmax_cross_entropy(rows, n, run.floats(spec.inputs[0]),
                          run.at<std::int32_t>(spec.inputs[1]), smoothing, nullptr,
                          run.floats(spec.outputs[0]));
  };
}

/** logits, labels, dloss to dlogits. */
Step cross_entropy_grad_step(Spec& spec) {
  const i64 rows = spec.next(), n = spec.next();
  const float smoothing = static_cast<float>(spec.number());
  return [=](const Run& run) {
    softmax_cross_entropy_grad(rows, n, run.floats(spec.inputs[0]),
                               run.at<std::int32_t>(spec.inputs[1]), smoothing, nullptr,
                               run.floats(spec.inputs[2]), run.floats(spec.outputs[0]));
  };
}

Attention::Strides read_strides(Spec& spec) {
  Attention::Strides strides;
  strides.batch = spec.next();
  strides.head = spec.next();
  strides.row = spec.next();
  return strides;
}

/**
 * Integers: batch, heads, queries, keys, width, value width, causal, strides (batch, head, row) of q, k,
 * v and the result, whether a bias follows, and its strides (batch, head, query, key). Number: scale.
 */
Attention read_attention(Spec& spec, bool& bias) {
  Attention shape;
  shape.batch = spec.next();
  shape.heads = spec.next();
  shape.queries = spec.next();
  shape.keys = spec.next();
  shape.width = spec.next();
  shape.value_width = spec.next();
  shape.causal = spec.next() != 0;
  shape.q = read_strides(spec);
  shape.k = read_strides(spec);
  shape.v = read_strides(spec);
  shape.o = read_strides(spec);
  bias = spec.next() != 0;
  shape.bias_batch = spec.next();
  shape.bias_head = spec.next();
  shape.bias_query = spec.next();
  shape.bias_key = spec.next();
  shape.scale = static_cast<float>(spec.number());
  return shape;
}

/** q, k, v and a bias to the result and, where asked for, the logarithms of the sums. */
Step attention_step(Spec& spec) {
  bool bias = false;
  const Attention shape = read_attention(spec, bias);
  return [=](const Run& run) {
    Attention call = shape;
    call.bias = bias ? run.floats(spec.inputs[3]) : nullptr;
    attention(call, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]),
              run.floats(spec.inputs[2]), run.floats(spec.outputs[0]),
              output_or_null(run, spec, 1));
  };
}

/** q, k, v of a cache and the first query's position: only the keys up to there are looked at. */
Step cached_attention_step(Spec& spec) {
  bool bias = false;
  const Attention shape = read_attention(spec, bias);
  return [=](const Run& run) {
    Attention call = shape;
    const i64 filled = *run.at<std::int32_t>(spec.inputs[3]) + shape.queries;
    call.keys = std::max<i64>(1, std::min(filled, shape.keys));
    call.causal = shape.queries > 1;
    attention(call, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]),
              run.floats(spec.inputs[2]), run.floats(spec.outputs[0]));
  };
}

/** q, k, v, do and, where kept, the logarithms of the sums to dq, dk, dv. */
Step attention_grad_step(Spec& spec) {
  bool bias = false;
  const Attention shape = read_attention(spec, bias);
  return [=](const Run& run) {
    attention_grad(shape, run.floats(spec.inputs[0]), run.floats(spec.inputs[1]),
                   run.floats(spec.inputs[2]), run.floats(spec.inputs[3]),
                   input_or_null(run, spec, 4), run.floats(spec.outputs[0]),
                   run.floats(spec.outputs[1]), run.floats(spec.outputs[2]));
  };
}

/** The sum of all squares. Integers: the tensors' sizes. */
Step sum_of_squares_step(Spec& spec) {
  const std::vector<std::int64_t> sizes = spec.take(static_cast<i64>(spec.inputs.size()));
  return [=](const Run& run) {
    std::vector<const float*> tensors;
    for (const std::int32_t input : spec.inputs) {
      tensors.push_back(run.floats(input));
    }
    *run.floats(spec.outputs[0]) = static_cast<float>(
        sum_of_squares(static_cast<i64>(sizes.size()), sizes.data(), tensors.data()));
  };
}

/**
 * One AdamW update with the moving average of the parameters. Inputs: scalars rate, epsilon, keep
 * (1 - lr · decay), factor of the gradients, 1 - decay of the average, whether anything changes; then g,
 * p, m, v and, with averages, the average of each tensor. Outputs: p, m, v and the average of each.
 * Where nothing is to change (a gradient that is not finite) gradients count as zero, parameters stay.
 * Integers: whether there are averages, whether weights decay, tensors, their sizes. Numbers: beta1, beta2.
 */
Step adamw_step(Spec& spec) {
  const bool averaged = spec.next() != 0;
  const bool decayed = spec.next() != 0;
  const std::vector<std::int64_t> sizes = spec.take(spec.next());
  AdamW options;
  options.beta1 = static_cast<float>(spec.number());
  options.beta2 = static_cast<float>(spec.number());
  return [=](const Run& run) {
    AdamW call = options;
    const auto scalar = [&](int i) { return *run.floats(spec.inputs[i]); };
    const bool changes = *run.at<std::uint8_t>(spec.inputs[5]) != 0;
    call.rate = changes ? scalar(0) : 0;
    call.epsilon = scalar(1);
    call.keep = changes ? scalar(2) : 1;
    call.grad_scale = scalar(3);
    call.ema_decay = 1 - scalar(4);
    const std::size_t per = averaged ? 5 : 4;
    std::vector<AdamWTensor> tensors(sizes.size());
    i64 longest = 0;
    for (const i64 size : sizes) {
      longest = std::max(longest, size);
    }
    const std::vector<float> zeros(changes ? 0 : longest, 0.0f);
    for (std::size_t i = 0; i < sizes.size(); i++) {
      AdamWTensor& t = tensors[i];
      const std::size_t in = 6 + per * i;
      const std::size_t out = (per - 1) * i;
      t.size = sizes[i];
      t.grad = changes ? run.floats(spec.inputs[in]) : zeros.data();
      t.p = run.floats(spec.inputs[in + 1]);
      t.m = run.floats(spec.inputs[in + 2]);
      t.v = run.floats(spec.inputs[in + 3]);
      t.ema = averaged ? run.floats(spec.inputs[in + 4]) : nullptr;
      t.p_out = run.floats(spec.outputs[out]);
      t.m_out = run.floats(spec.outputs[out + 1]);
      t.v_out = run.floats(spec.outputs[out + 2]);
      t.ema_out = averaged ? run.floats(spec.outputs[out + 3]) : nullptr;
      t.decay = decayed;
    }
    adamw(call, static_cast<i64>(tensors.size()), tensors.data());
  };
}

}  // namespace

std::vector<StepKind> kernel_steps() {
  return {{"Conv", conv_step},
          {"ConvInputGrad", conv_input_step},
          {"ConvFilterGrad", conv_filter_step},
          {"GroupNorm", group_norm_step},
          {"GroupNormGrad", group_norm_grad_step},
          {"LayerNorm", layer_norm_step},
          {"LayerNormGrad", layer_norm_grad_step},
          {"Softmax", softmax_step},
          {"SoftmaxCrossEntropy", cross_entropy_step},
          {"SoftmaxCrossEntropyGrad", cross_entropy_grad_step},
          {"Attention", attention_step},
          {"AttentionGrad", attention_grad_step},
          {"CachedAttention", cached_attention_step},
          {"SumOfSquares", sum_of_squares_step},
          {"AdamW", adamw_step}};
}

}  // namespace tessera::exec
