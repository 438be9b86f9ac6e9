// The hand-written CUDA kernels against plain loops in double precision, on a processor (shim.h). Their sources come
// as sources.h, a namespace each with its sizes and types (test/runtime/cuda-kernels.test.ts writes it). Prints a line
// a kernel: "ok" or "WRONG", its name and the largest error.
#include "shim.h"

#include "sources.h"

namespace {

std::mt19937 generator(1);
double worst = 0;

float wide(float x) { return x; }
float wide(bf16 x) { return __uint_as_float(static_cast<unsigned>(x) << 16); }
void set(float& to, float x) { to = x; }
void set(bf16& to, float x) { to = narrowed(x); }

// Aligned, as the kernels read 16 bytes at a time.
template <class T>
struct Values {
  struct alignas(16) Unit {
    char bytes[16];
  };
  std::vector<Unit> units;
  explicit Values(size_t count, float scale = 0, float shift = 0) : units((count * sizeof(T) + 15) / 16) {
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < count; i++) set((*this)[i], normal(generator) * scale + shift);
  }
  T* data() { return reinterpret_cast<T*>(units.data()); }
  T& operator[](size_t i) { return data()[i]; }
  double at(size_t i) { return wide(data()[i]); }
};

void error(double got, double want, double scale) {
  const double e = std::fabs(got - want) / scale;
  if (!(e <= worst)) worst = e;
}

template <class T>
void told(const char* name, double exact = 1e-5) {
  const double allowed = sizeof(T) == 2 ? 1e-2 : exact;
  std::printf("%s %s %.1e\n", worst <= allowed ? "ok" : "WRONG", name, worst);
  worst = 0;
}

#define ROWS_TEST(NS)                                                                                              \
  {                                                                                                                \
    using namespace NS;                                                                                            \
    Values<X> x(M * K, 1, 3);                                                                                      \
    Values<bf16> w(static_cast<size_t>(N) * K, 0.03f);                                                             \
    Values<B> bias(N, 1);                                                                                          \
    Values<float> scale(K, 0.1f, 1), shift(K, 0.1f), residual(M * N, 1);                                           \
    Values<Y> y(M * N);                                                                                            \
    start((N + 7) / 8, 1, 256, [&] {                                                                               \
      fewRows(x.data(), w.data(), bias.data(), scale.data(), shift.data(), residual.data(), y.data(), 1e-5f);      \
    });                                                                                                            \
    for (int m = 0; m < M; m++) {                                                                                  \
      double mean = 0, square = 0;                                                                                 \
      for (int k = 0; k < K; k++) mean += x.at(m * K + k) / K;                                                     \
      for (int k = 0; k < K; k++) square += std::pow(x.at(m * K + k) - mean, 2) / K;                               \
      for (int n = 0; n < N; n++) {                                                                                \
        double sum = BIAS ? bias.at(n) : 0;                                                                        \
        for (int k = 0; k < K; k++) {                                                                              \
          double v = x.at(m * K + k);                                                                              \
          if (NORM) v = (v - mean) / std::sqrt(square + 1e-5) * scale.at(k) + shift.at(k);                         \
          sum += v * w.at(static_cast<size_t>(n) * K + k);                                                         \
        }                                                                                                          \
        if (GELU) sum *= 0.5 * (1 + std::erf(sum * std::sqrt(0.5)));                                               \
        if (RESIDUAL) sum += residual.at(m * N + n);                                                               \
        error(y.at(m * N + n), sum, 3);                                                                            \
      }                                                                                                            \
    }                                                                                                              \
    told<Y>(#NS);                                                                                                  \
  }

#define STEP_TEST(NS, POSITION)                                                                                    \
  {                                                                                                                \
    using namespace NS;                                                                                            \
    constexpr int places = 300, heads = 2, splits = (places + CHUNK - 1) / CHUNK;                                  \
    int position = POSITION;                                                                                       \
    Values<X> q(heads * D, 1), newKey(heads * D, 1), newValue(heads * D, 1);                                       \
    Values<K> keys(heads * places * D, 1), values(heads * places * D, 1);                                          \
    Values<float> parts(heads * splits * (D + 2));                                                                 \
    std::vector<unsigned> arrived(heads);                                                                          \
    Values<Y> y(heads * D);                                                                                        \
    for (int again = 0; again < 2; again++) {                                                                      \
      start(splits, heads, 256, [&] {                                                                              \
        step(q.data(), keys.data(), values.data(), newKey.data(), newValue.data(), &position, parts.data(),        \
             arrived.data(), y.data(), 0.125f, places, heads, splits, heads * D, D, heads * D, D, heads * D, D);   \
      });                                                                                                          \
      for (int h = 0; h < heads; h++) {                                                                            \
        std::vector<double> scores(position + 1);                                                                  \
        double sum = 0;                                                                                            \
        auto row = [&](int j) { return (static_cast<size_t>(h) * places + j) * D; };                               \
        for (int j = 0; j <= position; j++) {                                                                      \
          for (int e = 0; e < D; e++) {                                                                            \
            scores[j] += 0.125 * q.at(h * D + e) * (j == position ? newKey.at(h * D + e) : keys.at(row(j) + e));   \
          }                                                                                                        \
          sum += scores[j] = std::exp(scores[j]);                                                                  \
        }                                                                                                          \
        for (int e = 0; e < D; e++) {                                                                              \
          double out = 0;                                                                                          \
          for (int j = 0; j <= position; j++) {                                                                    \
            out += scores[j] / sum * (j == position ? newValue.at(h * D + e) : values.at(row(j) + e));             \
          }                                                                                                        \
          error(y.at(h * D + e), out, 1);                                                                          \
          error(keys.at(row(position) + e), newKey.at(h * D + e), 1);                                              \
          error(values.at(row(position) + e), newValue.at(h * D + e), 1);                                          \
        }                                                                                                          \
      }                                                                                                            \
    }                                                                                                              \
    told<X>(#NS " at " #POSITION);                                                                                 \
  }

#define LAYER_TEST(NS)                                                                                             \
  {                                                                                                                \
    using namespace NS;                                                                                            \
    constexpr int rows = 5, blocks = 3;                                                                            \
    Values<X> x(rows * C, 1, 2);                                                                                   \
    Values<D> added(rows * C, 1), dy(rows * C, 1);                                                                 \
    Values<float> scale(C, 0.1f, 1), shift(C, 0.1f), residual(rows * C, 1), stats(rows * 2), sum(rows * C);        \
    Values<Y> y(rows * C), dx(rows * C);                                                                           \
    Values<bf16> copy(rows * C);                                                                                   \
    Values<float> part(blocks * SUMS * C), dscale(C), dshift(C), dsum(C);                                          \
    for (int more = 1; more >= 0; more--) {                                                                        \
      start(rows, 1, THREADS, [&] {                                                                                \
        lnForward(x.data(), scale.data(), shift.data(), y.data(), stats.data(), 1e-5f, more ? added.data() : nullptr, \
                  more ? sum.data() : nullptr);                                                                    \
      });                                                                                                          \
      for (int r = 0; r < rows; r++) {                                                                             \
        auto v = [&](int k) { return x.at(r * C + k) + more * added.at(r * C + k); };                              \
        double mean = 0, square = 0;                                                                               \
        for (int k = 0; k < C; k++) mean += v(k) / C;                                                              \
        for (int k = 0; k < C; k++) square += std::pow(v(k) - mean, 2) / C;                                        \
        for (int k = 0; k < C; k++) {                                                                              \
          error(y.at(r * C + k), (v(k) - mean) / std::sqrt(square + 1e-5) * scale.at(k) + shift.at(k), 3);         \
          if (more) error(sum.at(r * C + k), v(k), 3);                                                             \
        }                                                                                                          \
        error(stats.at(2 * r), mean, 1);                                                                           \
        error(stats.at(2 * r + 1), 1 / std::sqrt(square + 1e-5), 1);                                               \
      }                                                                                                            \
      told<Y>(more ? #NS ", of a sum" : #NS);                                                                      \
    }                                                                                                              \
    start(blocks, 1, THREADS, [&] {                                                                                \
      lnBackward(x.data(), dy.data(), scale.data(), stats.data(), dx.data(), part.data(), rows, residual.data(),   \
                 copy.data());                                                                                     \
    });                                                                                                            \
    start((C + 31) / 32, SUMS, 256,                                                                                \
          [&] { lnParameters(part.data(), dscale.data(), dshift.data(), dsum.data(), blocks); });                  \
    std::vector<double> up(C), hat(C), total(C);                                                                   \
    for (int r = 0; r < rows; r++) {                                                                               \
      const double mean = stats.at(2 * r), rate = stats.at(2 * r + 1);                                             \
      double a = 0, b = 0;                                                                                         \
      for (int k = 0; k < C; k++) {                                                                                \
        const double h = (x.at(r * C + k) - mean) * rate, g = dy.at(r * C + k);                                    \
        up[k] += g;                                                                                                \
        hat[k] += g * h;                                                                                           \
        a += g * scale.at(k) / C;                                                                                  \
        b += g * scale.at(k) * h / C;                                                                              \
      }                                                                                                            \
      for (int k = 0; k < C; k++) {                                                                                \
        const double h = (x.at(r * C + k) - mean) * rate;                                                          \
        const double want = rate * (dy.at(r * C + k) * scale.at(k) - a - h * b) + residual.at(r * C + k);          \
        total[k] += want;                                                                                          \
        error(dx.at(r * C + k), want, 3);                                                                          \
        if (std::fabs(copy.at(r * C + k) - want) > 0.01 * (1 + std::fabs(want))) worst = 1;                        \
      }                                                                                                            \
    }                                                                                                              \
    told<Y>(#NS ", gradient");                                                                                     \
    for (int k = 0; k < C; k++) {                                                                                  \
      error(dshift.at(k), up[k], rows);                                                                            \
      error(dscale.at(k), hat[k], rows);                                                                           \
      if (SUMS > 2) error(dsum.at(k), total[k], rows);                                                             \
    }                                                                                                              \
    told<float>(#NS ", sums");                                                                                     \
  }

#define GROUP_TEST(NS)                                                                                             \
  {                                                                                                                \
    using namespace NS;                                                                                            \
    constexpr int batch = 2, parts = 2, size = P * (C / G);                                                        \
    Values<X> x(batch * P * C, 1, 2);                                                                              \
    Values<D> dy(batch * P * C, 1);                                                                                \
    Values<float> scale(C, 0.1f, 1), shift(C, 0.1f), part(batch * parts * C * 2), stats(batch * G * 2);            \
    Values<float> channel(batch * C * 2), group(batch * G * 2), dscale(C), dshift(C);                              \
    Values<Y> y(batch * P * C), dx(batch * P * C);                                                                 \
    start(parts, batch, 256, [&] { gnStats(x.data(), part.data(), parts); });                                      \
    start(batch, 1, 64, [&] { gnFinish(x.data(), part.data(), stats.data(), parts, 1e-5f); });                     \
    start(parts, batch, 256,                                                                                       \
          [&] { gnApply(x.data(), scale.data(), shift.data(), stats.data(), y.data(), parts, 0, 0, 0); });         \
    start(parts, batch, 256, [&] {                                                                                 \
      gnGradSums(x.data(), dy.data(), scale.data(), shift.data(), stats.data(), part.data(), parts, 0, 0, 0);      \
    });                                                                                                            \
    start(batch, 1, 256, [&] { gnGradFinish(part.data(), scale.data(), channel.data(), group.data(), parts); });   \
    start((C + 31) / 32, 1, 32, [&] { gnGradParameters(channel.data(), dscale.data(), dshift.data(), batch); });   \
    start(parts, batch, 256, [&] {                                                                                 \
      gnGradApply(x.data(), dy.data(), scale.data(), shift.data(), stats.data(), group.data(), dx.data(), parts, 0, 0, 0); \
    });                                                                                                            \
    std::vector<double> up(C), hat(C);                                                                             \
    for (int b = 0; b < batch; b++) {                                                                              \
      for (int g = 0; g < G; g++) {                                                                                \
        auto each = [&](auto visit) {                                                                              \
          for (int p = 0; p < P; p++) {                                                                            \
            for (int k = g * (C / G); k < (g + 1) * (C / G); k++) visit((b * P + p) * C + k, k);                   \
          }                                                                                                        \
        };                                                                                                         \
        double mean = 0, square = 0, a = 0, c = 0;                                                                 \
        each([&](int i, int) { mean += x.at(i) / size; });                                                         \
        each([&](int i, int) { square += std::pow(x.at(i) - mean, 2) / size; });                                   \
        const double rate = 1 / std::sqrt(square + 1e-5);                                                          \
        auto before = [&](int i, int k) { return (x.at(i) - mean) * rate * scale.at(k) + shift.at(k); };           \
        auto slope = [&](int i, int k) {                                                                           \
          const double z = before(i, k), s = 1 / (1 + std::exp(-z));                                               \
          return dy.at(i) * (SILU ? s * (1 + z * (1 - s)) : 1);                                                    \
        };                                                                                                         \
        each([&](int i, int k) {                                                                                   \
          const double z = before(i, k), h = (x.at(i) - mean) * rate, d = slope(i, k);                             \
          error(y.at(i), SILU ? z / (1 + std::exp(-z)) : z, 3);                                                    \
          up[k] += d;                                                                                              \
          hat[k] += d * h;                                                                                         \
          a += d * scale.at(k) / size;                                                                             \
          c += d * scale.at(k) * h / size;                                                                         \
        });                                                                                                        \
        each([&](int i, int k) {                                                                                   \
          const double h = (x.at(i) - mean) * rate;                                                                \
          error(dx.at(i), rate * (slope(i, k) * scale.at(k) - a - h * c), 3);                                      \
        });                                                                                                        \
      }                                                                                                            \
    }                                                                                                              \
    told<Y>(#NS);                                                                                                  \
    for (int k = 0; k < C; k++) {                                                                                  \
      error(dshift.at(k), up[k], batch * P);                                                                       \
      error(dscale.at(k), hat[k], batch * P);                                                                      \
    }                                                                                                              \
    told<float>(#NS ", sums");                                                                                     \
  }

void geluTest() {
  using namespace gelu;
  constexpr int rows = 37, parts = 5;
  Values<bf16> x(rows * C, 1), d(rows * C, 1), y(rows * C);
  Values<float> part(parts * C), sums(C);
  start(parts, 1, 256, [&] { geluGradSums(x.data(), d.data(), y.data(), part.data(), rows); });
  start((C + 31) / 32, 1, 256, [&] { partSums(part.data(), sums.data(), parts); });
  for (int k = 0; k < C; k++) {
    double total = 0;
    for (int r = 0; r < rows; r++) {
      const double v = x.at(r * C + k), normal = 0.5 * (1 + std::erf(v * std::sqrt(0.5)));
      const double g = d.at(r * C + k) * (normal + v * std::exp(-0.5 * v * v) / std::sqrt(2 * M_PI));
      total += g;
      if (std::fabs(y.at(r * C + k) - g) > 0.01 * (0.1 + std::fabs(g))) worst = 1;
    }
    error(sums.at(k), total, rows);
  }
  told<float>("gelu");
}

// Parts that lie as [n0, N2, N1, 32] and are joined as [n0, N1, 3 · N2, 32].
void concatTest() {
  using namespace joined;
  constexpr int n0 = 2, d = 32;
  std::vector<Values<bf16>> parts;
  for (int k = 0; k < 3; k++) parts.emplace_back(n0 * N1 * N2 * d, 1);
  Values<bf16> y(3 * n0 * N1 * N2 * d);
  auto units = [](Values<bf16>& values) { return reinterpret_cast<uint4*>(values.data()); };
  start((n0 * N1 * N2 * N3 + 255) / 256, 3, 256, [&] {
    concat(units(parts[0]), units(parts[1]), units(parts[2]), units(parts[0]), units(y), N2 * N1 * N3, N3, N1 * N3,
           3 * N2 * N3 * N1, 3 * N2 * N3, n0);
  });
  for (int b = 0; b < n0; b++) {
    for (int n = 0; n < N1; n++) {
      for (int h = 0; h < 3 * N2; h++) {
        for (int e = 0; e < d; e++) {
          error(y.at(((b * N1 + n) * 3 * N2 + h) * d + e), parts[h / N2].at(((b * N2 + h % N2) * N1 + n) * d + e), 1);
        }
      }
    }
  }
  told<float>("concat", 0);
}

// A slice of words, one of odd bytes, and an output that is put at the turn's place.
void moveTest() {
  using namespace moves;
  int turn = 3;
  std::vector<int> words(50), taken(10), put(60);
  std::vector<char> bytes(70), few(7);
  for (int i = 0; i < 50; i++) words[i] = i;
  for (int i = 0; i < 70; i++) bytes[i] = static_cast<char>(i);
  Moves m{};
  auto add = [&](const void* from, long fromStep, void* to, long toStep, long size) {
    m.from[m.count] = static_cast<const char*>(from);
    m.to[m.count] = static_cast<char*>(to);
    m.fromStep[m.count] = fromStep;
    m.toStep[m.count] = toStep;
    m.bytes[m.count++] = size;
  };
  add(words.data(), 40, taken.data(), 0, 40);
  add(bytes.data(), 7, few.data(), 0, 7);
  add(words.data(), 0, put.data(), 40, 40);
  start(1, 1, 512, [&] { move(m, &turn, 1); });
  for (int i = 0; i < 10; i++) error(taken[i], 30 + i, 1), error(put[30 + i], i, 1);
  for (int i = 0; i < 7; i++) error(few[i], 21 + i, 1);
  error(turn, 4, 1);
  told<float>("move", 0);
}

}  // namespace

int main() {
  ROWS_TEST(rowsNorm)
  ROWS_TEST(rowsGelu)
  ROWS_TEST(rowsResidual)
  STEP_TEST(stepFloat, 200)
  STEP_TEST(stepFloat, 5)
  STEP_TEST(stepNarrow, 290)
  LAYER_TEST(layerNarrow)
  LAYER_TEST(layerOdd)
  LAYER_TEST(layerWide)
  GROUP_TEST(groupNarrow)
  GROUP_TEST(groupFloat)
  geluTest();
  concatTest();
  moveTest();
}
