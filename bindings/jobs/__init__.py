"""What the scheduler runs: one module for each job, safe to repeat and to run in several processes.

`registry` lists the jobs, `runner` runs one for the scheduler or the command line, `maintenance` gives each what
it needs. `phone_sealing` is run by a command only. When jobs run is decided in `scheduler`. No timer here.
"""
