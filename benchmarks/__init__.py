"""`make bench`: the product beside the bare drivers, as ratios measured in one run.

Machines are noisy, so nothing here gates anything: the bench prints a table and writes JSON. Each number is a
ratio of medians over interleaved rounds, and its spread is the quartiles of the rounds' own ratios. "Raw" is the
same rows through the bare driver with SQL written by hand, made into plain tuples.

`python -m benchmarks --help` tells the sizes; docs/explanation/performance.md tells what was seen.
"""
