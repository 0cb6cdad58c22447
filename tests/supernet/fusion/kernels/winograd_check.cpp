// The Winograd kernel between buffers of exactly the right size, to be run under sanitizers.

#include "winograd.cpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main() {
  std::srand(1);
  for (int turn = 0; turn < 60; ++turn) {
    const int64_t images = 1 + std::rand() % 3, height = 3 + std::rand() % 22,
                  width = 3 + std::rand() % 22, in = 16 * (1 + std::rand() % 3),
                  out = 16 * (1 + std::rand() % 5), pad = std::rand() % 3,
                  size = images * (height + 2 * pad - 2) * (width + 2 * pad - 2) * out;
    const std::vector<float> x(images * height * width * in, 1.0f), weights(36 * in * out, 0.0f),
        bias(out, 0.5f), addend(size, 0.25f);
    std::vector<float> y(size), scratch(evolve_winograd_scratch(in, out));
    const int failed = evolve_winograd(
        x.data(), weights.data(), turn % 2 ? bias.data() : nullptr,
        turn % 3 ? addend.data() : nullptr, y.data(), images, height, width, in, out, pad, 0.0f,
        0.6f, scratch.data());
    const float wanted = std::fmin(0.6f, (turn % 2 ? 0.5f : 0.0f) + (turn % 3 ? 0.25f : 0.0f));
    if (failed) return std::puts("refused"), 1;
    for (float answer : y)  // weights of nothing but zeros leave what is added
      if (answer != wanted) return std::puts("wrong"), 1;
  }
}
