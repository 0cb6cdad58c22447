// The attention kernel between buffers of exactly the right size, to be run under sanitizers.

#include "attention.cpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main() {
  std::srand(1);
  const int64_t sizes[] = {32, 64, 96, 128};
  for (int turn = 0; turn < 400; ++turn) {
    const int64_t batches = 1 + std::rand() % 2, heads = 1 + std::rand() % 3,
                  queries = 1 + std::rand() % 80, keys = 1 + std::rand() % 80,
                  size = sizes[std::rand() % 4], rows = batches * heads;
    const std::vector<float> q(rows * queries * size, 1.0f), k(rows * keys * size, 0.5f), v(k),
        bias(queries * keys, 0.0f);
    std::vector<float> out(q.size()), scratch(evolve_attention_scratch(keys, size));
    const int64_t strides[] = {heads * queries * size, queries * size, size,
                               heads * keys * size,    keys * size,    size,
                               heads * keys * size,    keys * size,    size,
                               0,                      0,              keys,
                               1};
    evolve_attention(
        q.data(), k.data(), v.data(), turn % 2 ? bias.data() : nullptr, out.data(), batches, heads,
        queries, keys, size, strides, 0.1f, turn % 3 == 0, scratch.data());
    for (float answer : out)  // the mean of values that are all the same
      if (!(std::fabs(answer - 0.5f) < 1e-4f)) return std::puts("wrong"), 1;
  }
}
