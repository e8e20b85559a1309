"""What the timer runs: each pass is a plain function that is safe to run at any time, twice, and side by side.

`expire` ends what is over, `recover` finishes what a crash or a lost reply left open, `reconcile` compares with
the provider's own list: `scan` reads it, `verdict` says what that proves. Each returns its counts. When they run
is the scheduler's business.
"""
