"""The command line: thin commands over `service.py`; `root` tells which there are.

No rule of the product lives here, only how a command is typed and how its answer is shown. Whatever is heavy
(the database, the provider, tables) is imported inside the commands, so that `--help` answers at once.
"""

from bindings.cli.root import main

__all__ = ["main"]
