"""The operator's door: `python -m cdc run`, `check`, `status` and the rest; a module for each command.

It shows and exits, and decides nothing. Data goes to stdout, progress and complaints to stderr. It never prints a
secret: it is given none.
"""

from cdc.cli.door import app, main
from cdc.cli.looks import UNUSABLE

__all__ = ["UNUSABLE", "app", "main"]
