// 3 x 3 convolutions of stride 1 with a quarter of the multiplications, for one thread.
//
// F(4 x 4, 3 x 3) of Lavin and Gray 2016 (arXiv:1509.09308): tiles of 6 x 6 inputs become 36
// numbers per channel, 36 matrix products take the place of the convolution, and their results
// become 4 x 4 outputs. A block of tiles at a time, so that what goes between the steps stays in
// the nearer caches. Images lie as [row, column, channel].

#include "vectors.h"

#include <algorithm>

namespace {

constexpr int kIn = 6, kOut = 4, kPoints = kIn * kIn;
constexpr int64_t kBlock = 48;  // tiles at a time

struct Shape {
  int64_t images, height, width, in, out, pad;
  int64_t high() const { return height + 2 * pad - 2; }
  int64_t wide() const { return width + 2 * pad - 2; }
  int64_t down() const { return (high() + kOut - 1) / kOut; }
  int64_t across() const { return (wide() + kOut - 1) / kOut; }
  int64_t tiles() const { return images * down() * across(); }
};

// One column (or row) of B^T d.
inline void spread(const Vec d[kIn], Vec to[kIn]) {
  const Vec a = d[4] - 4.0f * d[2], b = d[3] - 4.0f * d[1];
  const Vec c = d[4] - d[2], e = 2.0f * (d[3] - d[1]);
  to[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
  to[1] = a + b;
  to[2] = a - b;
  to[3] = c + e;
  to[4] = c - e;
  to[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

// One column (or row) of A^T m.
inline void gather(const Vec m[kIn], Vec to[kOut]) {
  const Vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
  to[0] = m[0] + a + c;
  to[1] = b + 2.0f * d;
  to[2] = a + 4.0f * c;
  to[3] = b + 8.0f * d + m[5];
}

// to[point, channel] of the 6 x 6 inputs that begin at (top, left); outside the image are zeros.
template <bool kInside>
void take(const float* image, const Shape& s, int64_t top, int64_t left, float* to, int64_t step) {
  for (int64_t c = 0; c < s.in; c += kWide) {
    Vec half[kIn][kIn];
    for (int j = 0; j < kIn; ++j) {
      Vec column[kIn], sums[kIn];
      for (int i = 0; i < kIn; ++i) {
        const int64_t y = top + i, x = left + j;
        const bool has = kInside || (y >= 0 && y < s.height && x >= 0 && x < s.width);
        column[i] = has ? load(image + (y * s.width + x) * s.in + c) : Vec{};
      }
      spread(column, sums);
      for (int i = 0; i < kIn; ++i) half[i][j] = sums[i];
    }
    for (int i = 0; i < kIn; ++i) {
      Vec row[kIn];
      spread(half[i], row);
      for (int j = 0; j < kIn; ++j) store(to + (i * kIn + j) * step + c, row[j]);
    }
  }
}

// made[kTiles, kVecs * kWide] = taken[kTiles, in] weights[in, kVecs * kWide], while `lines` vectors
// per channel come nearer of what is needed next.
template <int kTiles, int kVecs>
inline void multiply(
    const float* taken, const float* weights, int64_t in, float* made, const float* next,
    int64_t lines) {
  Vec sums[kTiles][kVecs] = {};
  for (int64_t c = 0; c < in; ++c) {
    Vec weight[kVecs];
    for (int j = 0; j < kVecs; ++j) weight[j] = load(weights + (c * kVecs + j) * kWide);
    for (int64_t j = 0; j < lines; ++j) __builtin_prefetch(next + (c * lines + j) * kWide, 0, 2);
    for (int r = 0; r < kTiles; ++r)
      for (int j = 0; j < kVecs; ++j) sums[r][j] += taken[r * in + c] * weight[j];
  }
  for (int r = 0; r < kTiles; ++r)
    for (int j = 0; j < kVecs; ++j) store(made + (r * kVecs + j) * kWide, sums[r][j]);
}

template <int kVecs>
void multiply_all(const float* taken, const float* weights, int64_t in, int64_t tiles, float* made) {
  const float* next = weights + in * kVecs * kWide;
  const int64_t turns = (tiles + kRows - 1) / kRows, lines = (kVecs + turns - 1) / turns;
  int64_t t = 0;
  for (; t + kRows <= tiles; t += kRows) {
    multiply<kRows, kVecs>(taken + t * in, weights, in, made + t * kVecs * kWide, next, lines);
    next += in * lines * kWide;
  }
  taken += t * in, made += t * kVecs * kWide;
  switch (tiles - t) {
    case 1: return multiply<1, kVecs>(taken, weights, in, made, next, lines);
    case 2: return multiply<2, kVecs>(taken, weights, in, made, next, lines);
    case 3: return multiply<3, kVecs>(taken, weights, in, made, next, lines);
    case 4: return multiply<4, kVecs>(taken, weights, in, made, next, lines);
    case 5: return multiply<5, kVecs>(taken, weights, in, made, next, lines);
  }
}

struct After {
  const float *bias, *addend;
  float least, most;
};

// One tile of 4 x 4 outputs, of kWide channels, from made[point, tile, channel].
inline void give(
    const float* made, int64_t step, const After& after, int64_t channel, const Shape& s,
    int64_t top, int64_t left, float* image, const float* addend) {
  Vec half[kOut][kIn];
  for (int j = 0; j < kIn; ++j) {
    Vec column[kIn], sums[kOut];
    for (int i = 0; i < kIn; ++i) column[i] = load(made + (i * kIn + j) * step);
    gather(column, sums);
    for (int i = 0; i < kOut; ++i) half[i][j] = sums[i];
  }
  const Vec bias = after.bias ? load(after.bias + channel) : Vec{};
  const Vec least = Vec{} + after.least, most = Vec{} + after.most;
  for (int i = 0; i < kOut && top + i < s.high(); ++i) {
    Vec row[kOut];
    gather(half[i], row);
    for (int j = 0; j < kOut && left + j < s.wide(); ++j) {
      const int64_t at = ((top + i) * s.wide() + left + j) * s.out + channel;
      Vec value = row[j] + bias;
      if (addend) value += load(addend + at);
      value = value < least ? least : value;
      value = value > most ? most : value;
      store(image + at, value);
    }
  }
}

template <int kVecs>
void run(const float* x, const float* weights, const After& after, const Shape& s, float* y,
         float* scratch) {
  const int64_t all = s.tiles(), blocks = (all + kBlock - 1) / kBlock;
  if (all == 0) return;
  const int64_t most = (all + blocks - 1) / blocks, panel = kVecs * kWide;
  const int64_t per_image = s.down() * s.across();
  // A line more: at a power of two apart, all 36 would share a few sets of the cache.
  const int64_t taken_step = most * s.in + kWide, made_step = most * panel + kWide;
  float *taken = scratch, *made = scratch + kPoints * taken_step;
  for (int64_t first = 0; first < all; first += most) {
    const int64_t tiles = std::min(most, all - first);
    auto place = [&](int64_t t, int64_t& image, int64_t& top, int64_t& left) {
      image = (first + t) / per_image;
      const int64_t rest = (first + t) % per_image;
      top = rest / s.across() * kOut, left = rest % s.across() * kOut;
    };
    for (int64_t t = 0; t < tiles; ++t) {
      int64_t image, top, left;
      place(t, image, top, left);
      top -= s.pad, left -= s.pad;
      const bool inside =
          top >= 0 && left >= 0 && top + kIn <= s.height && left + kIn <= s.width;
      (inside ? take<true> : take<false>)(
          x + image * s.height * s.width * s.in, s, top, left, taken + t * s.in, taken_step);
    }
    for (int64_t k = 0; k < s.out; k += panel) {
      for (int p = 0; p < kPoints; ++p)
        multiply_all<kVecs>(
            taken + p * taken_step, weights + (k * kPoints + p * panel) * s.in, s.in, tiles,
            made + p * made_step);
      for (int64_t t = 0; t < tiles; ++t) {
        int64_t image, top, left;
        place(t, image, top, left);
        const int64_t offset = image * s.high() * s.wide() * s.out;
        for (int j = 0; j < kVecs; ++j)
          give(made + t * panel + j * kWide, made_step, after, k + j * kWide, s, top, left,
               y + offset, after.addend ? after.addend + offset : nullptr);
      }
    }
  }
}

}  // namespace

extern "C" int64_t evolve_winograd_panel(int64_t out) {
  return out % kWide ? 0 : shared_by(static_cast<int>(out / kWide)) * kWide;
}

extern "C" int64_t evolve_winograd_scratch(int64_t in, int64_t out) {
  return kPoints * (kBlock * (in + evolve_winograd_panel(out)) + 2 * kWide);
}

extern "C" int evolve_winograd(
    const float* x, const float* weights, const float* bias, const float* addend, float* y,
    int64_t images, int64_t height, int64_t width, int64_t in, int64_t out, int64_t pad,
    float least, float most, float* scratch) {
  const Shape s{images, height, width, in, out, pad};
  const After after{bias, addend, least, most};
  switch (evolve_winograd_panel(out) / kWide) {
    case 1: run<1>(x, weights, after, s, y, scratch); return 0;
    case 2: run<2>(x, weights, after, s, y, scratch); return 0;
#if defined(__AVX512F__)
    case 3: run<3>(x, weights, after, s, y, scratch); return 0;
    case 4: run<4>(x, weights, after, s, y, scratch); return 0;
#endif
  }
  return 1;
}
