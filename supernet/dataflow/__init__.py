"""Proofs about a captured graph: which outputs depend on which rows and on which positions.

An abstract interpretation of the exported program. `interpreter.interpret` walks the graph once and
gives every tensor a `values.Value`: where its rows and its length lie, whether a row depends on
other rows, whether entries that exist without padding can change with it, and what stands at the
padded places. `proof.prove` reads the outputs.

- `intervals`: ranges of numbers, and what pointwise operators make of them.
- `sizes`: a size as a product of rows, length and a number; regrouping dims in a view.
- `values`: what is known of one tensor.
- `pointwise`, `views`, `parts`, `constants`, `reductions`, `products`, `indexing`, `layers`: a rule
  for each operator.
"""
