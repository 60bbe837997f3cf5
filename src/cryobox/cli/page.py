"""The page of all options in the documents, made from the commands: `python -m cryobox.cli.page > docs/options.md`."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal

__all__ = ["options_page"]

HEAD = """# Options

Arguments and options of every command, as `--help` says them. This page is made from the program
(`python -m cryobox.cli.page > docs/options.md`), and a test compares the two.
"""


def options_page() -> str:
    """The page, in Markdown."""
    from cryobox.cli.program import app

    commands = [command.callback for command in app.registered_commands if command.callback is not None]
    return "\n".join([HEAD, *(text for command in commands for text in _command(command))])


def _command(command: Callable[..., Any]) -> Iterator[str]:
    yield f"## cryobox {command.__name__}\n\n{(command.__doc__ or '').strip().splitlines()[0]}\n"
    panels: dict[str, list[str]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if typing.get_origin(parameter.annotation) is typing.Annotated:
            kind, about = typing.get_args(parameter.annotation)
            panels.setdefault(about.rich_help_panel or "", []).append(_row(parameter, kind, about))
    for panel, rows in panels.items():
        yield "\n".join([f"| {panel} | | default |", "|---|---|---|", *rows, ""])


def _row(parameter: inspect.Parameter, kind: Any, about: Any) -> str:
    names = _names(parameter, about)
    value = about.metavar.replace("|", "\\|") if about.metavar is not None else _value(kind)
    shown = f"{', '.join(names)} {value}".strip() if names else (about.metavar or parameter.name).upper()
    text = (about.help or "").replace("|", "\\|")
    return f"| `{shown}` | {text} | {_default(parameter, names, about)} |"


def _names(parameter: inspect.Parameter, about: Any) -> list[str]:
    """What an option is called; an argument has no name."""
    if type(about).__name__ != "OptionInfo":
        return []
    first = [about.default] if isinstance(about.default, str) else []  # where typer keeps the first one's text
    return [*first, *about.param_decls] or [f"--{parameter.name.replace('_', '-')}"]


def _value(kind: Any) -> str:
    """What stands behind an option, in one word."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is Literal:
        return "\\|".join(typing.get_args(kind))
    return {"bool": "", "int": "N", "float": "X", "Path": "PATH"}.get(getattr(kind, "__name__", ""), "TEXT")


def _default(parameter: inspect.Parameter, names: list[str], about: Any) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    if isinstance(about.show_default, str):
        return about.show_default
    if isinstance(parameter.default, bool) and names and "/" in names[0]:
        return f"`{names[0].split('/')[0 if parameter.default else 1]}`"
    return "" if parameter.default in (None, (), False) else f"`{parameter.default}`"


if __name__ == "__main__":
    sys.stdout.write(options_page())
