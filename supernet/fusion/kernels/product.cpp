// y = activation(x w^T + bias) for one thread, with weights of 32 or of 16 bits.
//
// A tile of the result stays in registers (Goto and van de Geijn 2008,
// doi:10.1145/1356052.1356053): kRows rows of x by a panel of kPanel vectors of outputs. Weights lie
// as [panel, in, outputs of a panel], so that they are read in order, once per block of rows; of
// rows and of inputs as many are taken at a time as stay in the nearer caches. Halves become floats
// on their way into a register: all sums are of floats.

#include "vectors.h"

#include <algorithm>
#include <immintrin.h>

namespace {

typedef uint16_t Half;

constexpr int64_t kOutputs = kPanel * kWide;
constexpr int64_t kRowBytes = 1024 << 10, kPanelBytes = 384 << 10;  // of x and of w at a time

inline Vec widened(const float* from) { return load(from); }
#if defined(__AVX512F__)
inline Vec widened(const Half* from) {
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
#elif defined(__F16C__)
inline Vec widened(const Half* from) {
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
#endif

enum Activation { kClip, kSwish, kGelu, kGeluTanh };

struct After {
  const float* bias;
  int activation;
  float least, most;  // of kClip
};

// x / (1 + e^-v)
inline Vec gated(Vec x, Vec v) {
  const Vec e = exponential(v < 0.0f ? v : -v);
  return x * (v < 0.0f ? e : Vec{} + 1.0f) / (1.0f + e);
}

// x * Phi(x), with erfc by Abramowitz and Stegun 1964, 7.1.26: an error of 1.5e-7.
inline Vec gelu(Vec x) {
  const Vec size = (x < 0.0f ? -x : x) * 0.70710678118654752f;
  const Vec t = 1.0f / (1.0f + 0.3275911f * size);
  Vec p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec tail = 0.5f * x * (p * t * exponential(-size * size));
  return x < 0.0f ? tail : x - tail;
}

inline Vec finished(Vec sum, const After& after, int64_t output) {
  if (after.bias) sum += load(after.bias + output);
  switch (after.activation) {
    case kSwish: return gated(sum, sum);
    case kGelu: return gelu(sum);
    case kGeluTanh: return gated(sum, 1.5957691216f * (sum + 0.044715f * sum * sum * sum));
  }
  sum = sum < after.least ? Vec{} + after.least : sum;
  return sum > after.most ? Vec{} + after.most : sum;
}

constexpr int64_t kLine = 64, kSoon = 128 * kLine;

// What one call of `multiply` has in common with the next: `in` numbers of each row, of `row` in all.
struct Part {
  int64_t in, row, out;
  bool first, last;  // of a row
};

// y[kTile, a panel] += x[kTile, in] w. With `kFetch`, `lines` lines per input come nearer from
// `next` on.
//
// y is fetched before it is written: stores to lines that are far away hold up all stores after
// them, and loads of whatever lies at the same place in a page as one of those wait for it. Where
// the stack happened to lie so, a whole process was 5 to 9 % slower.
template <int kTile, bool kFetch, typename Weight>
inline void multiply(
    const float* x, const Part& part, const Weight* weights, const After& after, int64_t output,
    float* y, const char* next, int64_t lines) {
  constexpr int kApart = kTile <= 2 ? 2 : 1;  // so few sums would wait for each other
  const int64_t in = part.in, row = part.row;
  for (int r = 0; r < kTile; ++r)
    for (int j = 0; j < kPanel; ++j) __builtin_prefetch(y + r * part.out + j * kWide, 1, 2);
  Vec sums[kApart][kTile][kPanel] = {};
  auto add = [&](int64_t i, int apart) {
    Vec weight[kPanel];
    for (int j = 0; j < kPanel; ++j) weight[j] = widened(weights + i * kOutputs + j * kWide);
    if (kFetch)
      for (int64_t j = 0; j < lines; ++j) __builtin_prefetch(next + (i * lines + j) * kLine, 0, 2);
    for (int r = 0; r < kTile; ++r)
      for (int j = 0; j < kPanel; ++j) sums[apart][r][j] += x[r * row + i] * weight[j];
  };
  int64_t i = 0;
  for (; i + kApart <= in; i += kApart)
    for (int apart = 0; apart < kApart; ++apart) add(i + apart, apart);
  for (; i < in; ++i) add(i, 0);
  for (int r = 0; r < kTile; ++r)
    for (int j = 0; j < kPanel; ++j) {
      float* to = y + r * part.out + j * kWide;
      Vec sum = sums[0][r][j];
      if (kApart > 1) sum += sums[kApart - 1][r][j];
      if (!part.first) sum += load(to);
      store(to, part.last ? finished(sum, after, output + j * kWide) : sum);
    }
}

template <typename Weight>
void multiply_all(
    const float* x, int64_t rows, const Part& part, const Weight* weights, const After& after,
    int64_t output, float* y) {
  // Few rows take turns at fetching the next panel; where there is but one turn, all is read once
  // and in order, and what comes soon is fetched.
  const int64_t per_input = kOutputs * sizeof(Weight) / kLine, turns = (rows + kRows - 1) / kRows;
  int64_t lines = (per_input + turns - 1) / turns;
  const char* next = reinterpret_cast<const char*>(weights);
  next += turns == 1 ? kSoon : per_input * part.row * kLine;
  int64_t r = 0, fetched = 0;
  for (; r + kRows <= rows; r += kRows, fetched += lines)
    (fetched < per_input ? multiply<kRows, true, Weight> : multiply<kRows, false, Weight>)(
        x + r * part.row, part, weights, after, output, y + r * part.out,
        next + fetched * part.in * kLine, lines);
  x += r * part.row, y += r * part.out;
  lines = fetched < per_input ? lines : 0;
  next += fetched * part.in * kLine;
  switch (rows - r) {
    case 1: return multiply<1, false>(x, part, weights, after, output, y, next, lines);
    case 2: return multiply<2, false>(x, part, weights, after, output, y, next, lines);
    case 3: return multiply<3, true>(x, part, weights, after, output, y, next, lines);
    case 4: return multiply<4, true>(x, part, weights, after, output, y, next, lines);
    case 5: return multiply<5, true>(x, part, weights, after, output, y, next, lines);
  }
}

template <typename Weight>
void run(const float* x, const Weight* weights, const After& after, float* y, int64_t rows,
         int64_t in, int64_t out) {
  const int64_t bytes = in * kOutputs * sizeof(Weight);
  const int64_t parts = (bytes + kPanelBytes - 1) / kPanelBytes, deep = (in + parts - 1) / parts;
  const int64_t near = std::max<int64_t>(4, kRowBytes / (4 * deep * kRows)) * kRows;
  for (int64_t row = 0; row < rows; row += near)
    for (int64_t i = 0; i < in; i += deep) {
      const Part part{std::min(deep, in - i), in, out, i == 0, i + deep >= in};
      for (int64_t output = 0; output < out; output += kOutputs)
        multiply_all(
            x + row * in + i, std::min(near, rows - row), part,
            weights + output * in + i * kOutputs, after, output, y + row * out + output);
    }
}

}  // namespace

// `halves`: whether the weights are of 16 bits. 0 and 1 where this machine can't read those.
extern "C" int64_t evolve_product_panel(int halves) {
#if defined(__AVX512F__) || defined(__F16C__)
  return kOutputs;
#else
  return halves ? 0 : kOutputs;
#endif
}

extern "C" int evolve_product(
    const float* x, const void* weights, int halves, const float* bias, float* y, int64_t rows,
    int64_t in, int64_t out, int activation, float least, float most) {
  const After after{bias, activation, least, most};
  if (!halves) {
    run(x, static_cast<const float*>(weights), after, y, rows, in, out);
    return 0;
  }
#if defined(__AVX512F__) || defined(__F16C__)
  run(x, static_cast<const Half*>(weights), after, y, rows, in, out);
  return 0;
#else
  return 1;
#endif
}
