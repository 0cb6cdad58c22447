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

// The most vectors side by side that a row of so many divides into.
constexpr int shared_by(int parts) {
  int most = parts < kPanel ? parts : kPanel;
  while (parts % most != 0) --most;
  return most;
}

}  // namespace
