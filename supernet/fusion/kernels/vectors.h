// Vectors of floats as wide as the machine's, and how many make a tile of sums in its registers.

#pragma once

#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kPanel = 4;  // vectors side by side: kRows * kPanel sums in registers
#else
constexpr int kBytes = 32, kPanel = 2;
#endif
constexpr int kWide = kBytes / 4, kRows = 6;

typedef float Vec __attribute__((vector_size(kBytes), aligned(4), may_alias));
typedef int32_t Int __attribute__((vector_size(kBytes), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<Vec*>(to) = value; }

// e^x for x <= 0 or NaN; 0 below -87. Range reduction and polynomial of Cephes' expf (Moshier).
inline Vec exponential(Vec x) {
  const Vec round = Vec{} + 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction
  const Vec shifted = x * 1.44269504088896341f + round;
  const Vec n = shifted - round;
  const Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Int exponent = ((Int)shifted - (Int)round) << 23;
  const Vec power = x < -87.0f ? Vec{} : (Vec)((Int)p + exponent);
  return x == x ? power : x;
}

// The most vectors side by side that a row of so many divides into.
constexpr int shared_by(int parts) {
  int most = parts < kPanel ? parts : kPanel;
  while (parts % most != 0) --most;
  return most;
}

}  // namespace
