"""The command line: one file a command. Arguments become a Recipe, the Recipe a run, the result an exit code."""

from __future__ import annotations

from cryobox.cli.program import app, main

__all__ = ["app", "main"]
