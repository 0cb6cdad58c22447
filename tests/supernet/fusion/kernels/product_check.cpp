// The product between buffers of exactly the right size, to be run under sanitizers.

#include "product.cpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main() {
  std::srand(1);
  for (int turn = 0; turn < 120; ++turn) {
    const int64_t rows = std::rand() % 40, in = turn % 7 ? 1 + std::rand() % 70 : 1600,
                  out = 64 * (1 + std::rand() % 3);
    const bool halves = turn % 2;
    const std::vector<float> x(rows * in, 1.0f), bias(out, 0.5f), floats(in * out, 0.25f);
    const std::vector<uint16_t> small(in * out, 0x3400);  // 0.25
    std::vector<float> y(rows * out);
    const int failed = evolve_product(
        x.data(), halves ? static_cast<const void*>(small.data()) : floats.data(), halves,
        turn % 3 ? bias.data() : nullptr, y.data(), rows, in, out, 0, 0.0f, 99.0f);
    if (failed) return std::puts("refused"), 1;
    const float wanted = std::fmin(99.0f, 0.25f * in + (turn % 3 ? 0.5f : 0.0f));
    for (float answer : y)
      if (std::fabs(answer - wanted) > 1e-4f) return std::puts("wrong"), 1;
  }
}
