"""What the README claims, measured: one question a file, `python -m benchmarks [NAME ...]`.

Each prints a table and saves JSON (figures, repeats, spread, fingerprint, versions) in out/bench.
"""
