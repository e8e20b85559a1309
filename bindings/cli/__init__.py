"""The command line: thin commands over `BindingService`; `root` lists them.

Here is only how a command is typed and how its result is shown; no business rule. Commands import the database,
the provider and rich tables when they run, so that `--help` stays fast.
"""

from bindings.cli.root import main

__all__ = ["main"]
