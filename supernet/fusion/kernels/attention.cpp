// softmax(scale * q k^T + bias) v in one pass per few queries, for one thread.
//
// Scores of kRows queries never leave the nearest cache: products as in Goto and van de Geijn
// 2008 (doi:10.1145/1356052.1356053), a tile of the result in registers, keys packed so that a
// vector holds one number of several keys; then maximum, exponentials and sum; then the weighted
// values. Every row is whole, so there is nothing to rescale (unlike Dao et al. 2022,
// arXiv:2205.14135, whose rows are in parts).

#include "vectors.h"

#include <limits>

namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

struct Strides {
  int64_t batch, head, row;
};

inline int64_t whole(int64_t length) { return (length + kWide - 1) / kWide * kWide; }

// scores[kRows, kVecs * kWide] of queries [kRows, kSize] and as many packed keys.
template <int kVecs, int kSize>
inline void score(const float* queries, const float* keys, int64_t width, float* scores) {
  Vec sums[kRows][kVecs] = {};
  for (int d = 0; d < kSize; ++d) {
    Vec key[kVecs];
    for (int j = 0; j < kVecs; ++j) key[j] = load(keys + d * width + j * kWide);
    for (int r = 0; r < kRows; ++r)
      for (int j = 0; j < kVecs; ++j) sums[r][j] += queries[r * kSize + d] * key[j];
  }
  for (int r = 0; r < kRows; ++r)
    for (int j = 0; j < kVecs; ++j) store(scores + r * width + j * kWide, sums[r][j]);
}

template <int kSize>
inline void score_all(
    const float* queries, const float* keys, int64_t seen, int64_t width, float* scores) {
  int64_t at = 0;
  for (; at + kPanel * kWide <= seen; at += kPanel * kWide)
    score<kPanel, kSize>(queries, keys + at, width, scores + at);
  for (; at < seen; at += kWide) score<1, kSize>(queries, keys + at, width, scores + at);
}

// out[kRows, kVecs * kWide] = weights[kRows, keys] values[keys, kVecs * kWide]
template <int kVecs>
inline void weigh(
    const float* weights, int64_t width, const float* values, int64_t row, int64_t keys,
    float* out, int64_t size) {
  constexpr int kApart = kVecs * kRows <= 12 ? 2 : 1;  // too few sums would wait for each other
  Vec sums[kApart][kRows][kVecs] = {};
  auto add = [&](int64_t k, int apart) {
    Vec value[kVecs];
    for (int j = 0; j < kVecs; ++j) value[j] = load(values + k * row + j * kWide);
    for (int r = 0; r < kRows; ++r)
      for (int j = 0; j < kVecs; ++j) sums[apart][r][j] += weights[r * width + k] * value[j];
  };
  int64_t k = 0;
  for (; k + kApart <= keys; k += kApart)
    for (int apart = 0; apart < kApart; ++apart) add(k + apart, apart);
  for (; k < keys; ++k) add(k, 0);
  for (int r = 0; r < kRows; ++r)
    for (int j = 0; j < kVecs; ++j) {
      Vec sum = sums[0][r][j];
      if (kApart == 2) sum += sums[kApart - 1][r][j];
      store(out + r * size + j * kWide, sum);
    }
}

// Scores to weights, of which the first `seen` are to be used; 1 / their sum, 0 where all are 0.
inline float soften(float* scores, int64_t seen, int64_t until) {
  for (int64_t i = seen; i < until; ++i) scores[i] = kNone;
  Vec tops = load(scores);
  for (int64_t i = kWide; i < until; i += kWide) {
    const Vec next = load(scores + i);
    tops = tops > next ? tops : next;
  }
  float top = kNone;
  for (int i = 0; i < kWide; ++i) top = tops[i] > top ? tops[i] : top;
  const float base = top == kNone ? 0.0f : top;
  Vec sums = {};
  for (int64_t i = 0; i < until; i += kWide) {
    const Vec weight = exponential(load(scores + i) - base);
    store(scores + i, weight);
    sums += weight;
  }
  float sum = 0.0f;
  for (int i = 0; i < kWide; ++i) sum += sums[i];
  return sum == 0.0f ? 0.0f : 1.0f / sum;
}

template <int kSize>
inline void pack(const float* keys, int64_t row, int64_t count, int64_t width, float* packed) {
  int64_t i = 0;
  for (; i + kWide <= count; i += kWide)
    for (int d = 0; d < kSize; ++d) {
      Vec numbers;
      for (int j = 0; j < kWide; ++j) numbers[j] = keys[(i + j) * row + d];
      store(packed + d * width + i, numbers);
    }
  for (; i < width; ++i)
    for (int d = 0; d < kSize; ++d) packed[d * width + i] = i < count ? keys[i * row + d] : 0.0f;
}

template <int kSize>
void attend(
    const float* q, const float* k, const float* v, const float* bias, float* out, int64_t batches,
    int64_t heads, int64_t queries, int64_t keys, const int64_t* strides, float scale, bool causal,
    float* scratch) {
  const Strides of_q{strides[0], strides[1], strides[2]}, of_k{strides[3], strides[4], strides[5]},
      of_v{strides[6], strides[7], strides[8]};
  const int64_t* of_bias = strides + 9;
  const int64_t width = whole(keys);
  float *packed = scratch, *scores = packed + kSize * width, *some = scores + kRows * width,
        *answers = some + kRows * kSize;
  constexpr int kParts = kSize / kWide, kVecs = shared_by(kParts);
  for (int64_t at = 0; at < batches * heads; ++at) {
    const int64_t b = at / heads, h = at % heads;
    const float* values = v + b * of_v.batch + h * of_v.head;
    pack<kSize>(k + b * of_k.batch + h * of_k.head, of_k.row, keys, width, packed);
    for (int64_t first = 0; first < queries; first += kRows) {
      const int rows = queries - first < kRows ? static_cast<int>(queries - first) : kRows;
      const int64_t most = causal && first + rows < keys ? first + rows : keys;
      for (int r = 0; r < kRows; ++r) {  // beyond the last query, the last again
        const int64_t row = first + (r < rows ? r : rows - 1);
        const float* query = q + b * of_q.batch + h * of_q.head + row * of_q.row;
        for (int d = 0; d < kSize; ++d) some[r * kSize + d] = query[d] * scale;
      }
      score_all<kSize>(some, packed, whole(most), width, scores);
      float norms[kRows];
      for (int r = 0; r < rows; ++r) {
        float* row = scores + r * width;
        const int64_t seen = causal && first + r + 1 < most ? first + r + 1 : most;
        if (bias != nullptr) {
          const float* added = bias + b * of_bias[0] + h * of_bias[1] + (first + r) * of_bias[2];
          if (of_bias[3] == 1)
            for (int64_t i = 0; i < seen; ++i) row[i] += added[i];
          else
            for (int64_t i = 0; i < seen; ++i) row[i] += added[i * of_bias[3]];
        }
        norms[r] = soften(row, seen, whole(most));
      }
      for (int j = 0; j < kParts; j += kVecs)
        weigh<kVecs>(
            scores, width, values + j * kWide, of_v.row, most, answers + j * kWide, kSize);
      for (int r = 0; r < rows; ++r) {
        float* to = out + ((b * queries + first + r) * heads + h) * kSize;
        for (int d = 0; d < kSize; ++d) to[d] = answers[r * kSize + d] * norms[r];
      }
    }
  }
}

}  // namespace

// Floats of scratch that `evolve_attention` wants.
extern "C" int64_t evolve_attention_scratch(int64_t keys, int64_t size) {
  return size * whole(keys) + kRows * whole(keys) + 2 * kRows * size;
}

// q, k, v [batch, head, row, size] and bias [batch, head, query, key] (or null) by 13 strides in
// numbers, the last of q, k and v being 1; out is [batch, query, head, size] without gaps.
// 0, or 1 where there is no code for this size.
extern "C" int evolve_attention(
    const float* q, const float* k, const float* v, const float* bias, float* out, int64_t batches,
    int64_t heads, int64_t queries, int64_t keys, int64_t size, const int64_t* strides, float scale,
    int causal, float* scratch) {
  const auto run = size == 32   ? attend<32>
                   : size == 64 ? attend<64>
                   : size == 96 ? attend<96>
                   : size == 128 ? attend<128>
                                 : nullptr;
  if (run == nullptr) return 1;
  run(q, k, v, bias, out, batches, heads, queries, keys, strides, scale, causal != 0, scratch);
  return 0;
}
