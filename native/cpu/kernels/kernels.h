/**
 * The hot kernels of the `cpu` device: plain functions on float32 arrays, channel-last as in
 * TensorFlow.js. No dependencies but pthreads; C++17; the instruction set is chosen when this is
 * compiled (-O3 -march=native): AVX-512, AVX2 or whatever else the compiler's vectors map to.
 *
 * Rules:
 *  - Pointers are 4-byte aligned (64 is faster), row-major, and outputs never overlap inputs unless a
 *    comment says "in place". Sizes of zero are fine.
 *  - Every function uses the pool's threads and returns when its result is complete. Call from one
 *    thread at a time. Scratch memory belongs to the library, grows as needed and is reused.
 *  - For a given number of threads, results are the same to the bit from run to run.
 */
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace tessera {

using i64 = std::int64_t;

// --- Threads and scratch -------------------------------------------------------------------------

/** Threads that kernels use, the caller included; 0 means one a core. Default 0. Not while one runs. */
void set_threads(int count);
int threads();

using RangeFunction = void (*)(void* context, i64 begin, i64 end, int thread);

/**
 * Calls `function` on consecutive ranges that cover [0, n), each at least `grain` long but the last
 * ones, at most a few a thread. Nested calls run on the calling thread.
 */
void parallel_ranges(i64 n, i64 grain, RangeFunction function, void* context);

/** fn(begin, end, thread), thread in [0, threads()). */
template <typename F>
void parallel_for(i64 n, i64 grain, F&& fn) {
  using Plain = std::remove_reference_t<F>;
  parallel_ranges(
      n, grain,
      [](void* context, i64 begin, i64 end, int thread) {
        (*static_cast<Plain*>(context))(begin, end, thread);
      },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

/** Frees the scratch memory of all threads (it comes back when needed). */
void release_scratch();
/** Bytes of scratch held now. */
std::size_t scratch_bytes();

// --- Convolution ---------------------------------------------------------------------------------

/**
 * A 3D convolution (cross-correlation) with zero padding:
 *   y[b, t, h, w, co] = sum x[b, t·st + dt·a - pt, ...] filter[a, ...].
 * 1D and 2D ones have sides and kernels of 1. Pads may be one-sided; only those before are given, what
 * lies after follows from `out`. With groups > 1, filter is [kt, kh, kw, ci / groups, co].
 */
struct Conv {
  i64 batch = 1;
  i64 in[3] = {1, 1, 1};   // T, H, W of x
  i64 out[3] = {1, 1, 1};  // T, H, W of y
  i64 ci = 1, co = 1;
  i64 kernel[3] = {1, 1, 1};
  i64 stride[3] = {1, 1, 1};
  i64 pad[3] = {0, 0, 0};  // zeros before; may be negative (cropping)
  i64 dilation[3] = {1, 1, 1};
  i64 groups = 1;
  /**
   * true: a frame of the result depends, to the bit, on the frames under its kernel alone, and not on how many
   * there are. false: fast bilinear algorithms may run over time as well, with a relative error of about 1e-6
   * to 1e-5 of the result's norm.
   */
  bool exact = false;
};

/** What is added to each value of a result; both may be null. */
struct ConvExtra {
  const float* bias = nullptr;      // [channels of the result]
  const float* residual = nullptr;  // shaped as the result; may be the result itself
};

/** y [batch, out, co] from x [batch, in, ci] and filter [kernel, ci / groups, co]. */
void conv_forward(const Conv& conv, const float* x, const float* filter, float* y,
                  const ConvExtra& extra = {});
/** dx [batch, in, ci] from dy [batch, out, co]: also a transposed convolution. */
void conv_input_grad(const Conv& conv, const float* dy, const float* filter, float* dx,
                     const ConvExtra& extra = {});
/** dfilter [kernel, ci / groups, co] from x and dy. */
void conv_filter_grad(const Conv& conv, const float* x, const float* dy, float* dfilter);

// --- Matrix products -----------------------------------------------------------------------------

enum class Activation { none, silu, gelu };

/**
 * c[i] = act(alpha · op(a[i]) op(b[i]) + bias + beta · c[i]) for each of `batch` matrices.
 * op(a) is [m, k], op(b) [k, n], c [m, n]; ld* are row strides of the arrays as stored, *_stride the
 * distance between matrices (0 repeats one).
 */
struct Gemm {
  i64 m = 0, n = 0, k = 0;
  bool trans_a = false, trans_b = false;
  i64 lda = 0, ldb = 0, ldc = 0;  // 0: rows are dense
  float alpha = 1, beta = 0;
  i64 batch = 1;
  i64 a_stride = 0, b_stride = 0, c_stride = 0;
  const float* bias = nullptr;  // [n]
  Activation activation = Activation::none;
};
void gemm(const Gemm& shape, const float* a, const float* b, float* c);

/**
 * b [k, n], b(i, j) = b[i · kb + j · cb] with one of the strides 1, in the order in which products read it:
 * for weights that many products share. `out` has k · n values, n rounded up to a multiple of 32.
 */
void pack_matrix(i64 k, i64 n, const float* b, i64 kb, i64 cb, float* out);

/** c = act(a b + bias), a [m, k] with rows `lda` apart, b packed, c [m, n] dense. Best for up to a few hundred rows. */
struct PackedGemm {
  i64 m = 0, n = 0, k = 0, lda = 0;
  const float* bias = nullptr;  // [n]
  Activation activation = Activation::none;
};
void packed_gemm(const PackedGemm& shape, const float* a, const float* packed, float* c);

// --- Norms ---------------------------------------------------------------------------------------

/**
 * Group norm of x [batch, positions, channels] over positions and the channels of a group, then
 * scale [channels] and shift [channels] (null: 1 and 0), then SiLU where asked. Norms by frame: frames
 * are `batch`. mean and rstd [batch, groups] are written unless null.
 */
struct GroupNorm {
  i64 batch = 1, positions = 1, channels = 1, groups = 1;
  float epsilon = 1e-6f;
  bool silu = false;
};
void group_norm(const GroupNorm& norm, const float* x, const float* scale, const float* shift,
                float* y, float* mean = nullptr, float* rstd = nullptr);
/**
 * Gradients from dy. mean and rstd: those of the forward pass, or null to compute them again.
 * dscale and dshift may be null. dx may be dy (in place).
 */
void group_norm_grad(const GroupNorm& norm, const float* x, const float* scale, const float* shift,
                     const float* dy, float* dx, float* dscale, float* dshift,
                     const float* mean = nullptr, const float* rstd = nullptr);

/** Layer norm over the last axis of x [rows, channels]; mean and rstd [rows] are written unless null. */
void layer_norm(i64 rows, i64 channels, float epsilon, const float* x, const float* scale,
                const float* shift, float* y, float* mean = nullptr, float* rstd = nullptr);
void layer_norm_grad(i64 rows, i64 channels, float epsilon, const float* x, const float* scale,
                     const float* dy, float* dx, float* dscale, float* dshift,
                     const float* mean = nullptr, const float* rstd = nullptr);

// --- Rows ----------------------------------------------------------------------------------------

/** Over the last axis of x [rows, n]; may run in place. */
void softmax(i64 rows, i64 n, const float* x, float* y);
void log_softmax(i64 rows, i64 n, const float* x, float* y);
/** dx from the result y and dy; dx may be dy. */
void softmax_grad(i64 rows, i64 n, const float* y, const float* dy, float* dx);
void log_softmax_grad(i64 rows, i64 n, const float* y, const float* dy, float* dx);

/**
 * loss[r] = weight[r] · cross entropy of softmax(logits[r]) with (1 - smoothing) one-hot(label) +
 * smoothing / n, in nats. A label outside [0, n) gives loss and gradient 0. weight may be null (1).
 */
void softmax_cross_entropy(i64 rows, i64 n, const float* logits, const std::int32_t* labels,
                           float smoothing, const float* weight, float* loss);
/** dlogits from dloss [rows]; may run in place on logits. */
void softmax_cross_entropy_grad(i64 rows, i64 n, const float* logits, const std::int32_t* labels,
                                float smoothing, const float* weight, const float* dloss,
                                float* dlogits);

// --- Element by element (in place where wanted) --------------------------------------------------

void silu(i64 n, const float* x, float* y);
void silu_grad(i64 n, const float* x, const float* dy, float* dx);
void gelu(i64 n, const float* x, float* y);  // the exact form, with erf
void gelu_grad(i64 n, const float* x, const float* dy, float* dx);
void exp_values(i64 n, const float* x, float* y);
void log_values(i64 n, const float* x, float* y);
void erf_values(i64 n, const float* x, float* y);
void tanh_values(i64 n, const float* x, float* y);
void sigmoid_values(i64 n, const float* x, float* y);

// --- Attention -----------------------------------------------------------------------------------

/**
 * softmax(scale · q kᵀ + bias, causal) v for each batch and head. Row strides let q, k, v and the
 * output be slices of [B, N, heads · width] or [B, heads, N, width]; the last axis is dense.
 * Causal: query i sees keys j <= i + keys - queries.
 */
struct Attention {
  i64 batch = 1, heads = 1, queries = 1, keys = 1, width = 1;
  i64 value_width = 0;  // 0: width
  float scale = 1;
  bool causal = false;
  struct Strides {
    i64 batch = 0, head = 0, row = 0;
  };
  Strides q, k, v, o;           // all zero: [batch, heads, rows, width] dense
  const float* bias = nullptr;  // added to scaled scores; strides of 0 repeat
  i64 bias_batch = 0, bias_head = 0, bias_query = 0, bias_key = 0;
};
/** logsum [batch, heads, queries] (log of the sum of exponentials) is written unless null. */
void attention(const Attention& shape, const float* q, const float* k, const float* v, float* o,
               float* logsum = nullptr);
/** Gradients with the strides of q, k, v; do has o's. logsum: of the forward pass, or null. */
void attention_grad(const Attention& shape, const float* q, const float* k, const float* v,
                    const float* d_o, const float* logsum, float* dq, float* dk, float* dv);

// --- Optimizer -----------------------------------------------------------------------------------

/** Sum of squares in double precision, same to the bit whatever the number of threads. */
double sum_of_squares(i64 count, const i64* sizes, const float* const* tensors);

/**
 * One AdamW step over many tensors, with g = grad · grad_scale:
 *   m += (1 - beta1) (g - m);  v += (1 - beta2) (g² - v);
 *   p = keep · p - rate · m / (sqrt(v) + epsilon);  ema += (1 - ema_decay) (p - ema).
 * keep = 1 - lr · weight_decay acts where `decay` is set; rate and epsilon hold the bias corrections:
 * lr sqrt(1 - beta2^t) / (1 - beta1^t) and e sqrt(1 - beta2^t).
 */
struct AdamW {
  float rate = 0, epsilon = 1e-8f, keep = 1;
  float beta1 = 0.9f, beta2 = 0.999f;
  float grad_scale = 1;
  float ema_decay = 0;
};
struct AdamWTensor {
  i64 size = 0;
  const float* grad = nullptr;
  const float* p = nullptr;  // old values
  const float* m = nullptr;
  const float* v = nullptr;
  const float* ema = nullptr;  // null: no average
  float* p_out = nullptr;      // new values; may be the old arrays
  float* m_out = nullptr;
  float* v_out = nullptr;
  float* ema_out = nullptr;
  bool decay = true;  // weight decay applies
};
void adamw(const AdamW& options, i64 count, const AdamWTensor* tensors);

/**
 * C[i, j] += sign Σ_k A[i, k] B[j, k] in double precision, over half-open ranges. `lower`: only tiles of
 * 4 × 4 that touch j <= i. `from`: the first k with a non-zero A[i, k] is i.
 */
struct Product64 {
  i64 ldc = 0, lda = 0, ldb = 0;
  i64 rows[2] = {0, 0}, columns[2] = {0, 0}, inner[2] = {0, 0};
  double sign = 1;
  bool lower = false, from = false;
};
void add_product64(const Product64& shape, double* c, const double* a, const double* b);

/**
 * Householder's reduction of a symmetric matrix [n, n], whose lower triangle is read and destroyed, to a
 * tridiagonal one: d its diagonal, e[i] what couples i - 1 and i.
 */
void tridiagonalise64(double* a, i64 n, double* d, double* e);

}  // namespace tessera
