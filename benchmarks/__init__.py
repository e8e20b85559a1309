"""Benchmarks (`make bench`): the product against the bare database drivers, as ratios measured in one run.

Machines are noisy, so no result fails a build: the bench prints a table and writes JSON. Each number is a ratio of
medians over interleaved rounds, and its spread is the quartiles of the single rounds' ratios. The baseline ("raw")
reads or writes the same rows through the bare driver with hand-written SQL, as plain tuples.

`python -m benchmarks --help` lists the sizes; docs/explanation/performance.md reports the results.
"""
