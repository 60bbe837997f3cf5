"""How an option is asked for on the command line, declared once: in the metadata of the field that it sets.

The command line, its help, completion, `--from` and the table of options in the documents are made from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from cryobox.bounds import check_types

__all__ = [
    "CLUSTERS",
    "HELICES",
    "IMAGES",
    "MESSAGES",
    "POSITIONS",
    "RUNNING",
    "TABLES",
    "Check",
    "Flag",
    "check_fields",
    "checked",
    "flags",
    "option",
]

Check = Callable[[str, object], Any]
"""Of a field's name and value the value as plain Python's; it raises `OptionError` for what may not be."""

TABLES, IMAGES, POSITIONS, HELICES = "Tables", "Images", "Positions", "Helices"
RUNNING, CLUSTERS, MESSAGES = "Running", "Clusters and live sessions", "Messages"
"""The panels of the help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """An option as a user writes it.

    Parameters
    ----------
    names : tuple of str
        "--edges", with short forms after it; of a switch "--fsync/--no-fsync", or one name.
    help : str
        At most a line of about 50 characters.
    panel : str
        Heading in the help.
    values : tuple, optional
        Of a switch: what the field holds with the first name, and without it or with the second.
    metavar : str, optional
        What stands for the value in the help; by default its type, or what may be chosen.
    shown : str
        What the help says of the default, where the value itself does not.
    """

    names: tuple[str, ...]
    help: str
    panel: str
    values: tuple[Any, Any] | None = None
    metavar: str | None = None
    shown: str = ""


def option(
    *names: str,
    default: Any = dataclasses.MISSING,
    help: str,  # noqa: A002 -- the word of every library of command lines
    panel: str,
    values: tuple[Any, Any] | None = None,
    metavar: str | None = None,
    shown: str = "",
    check: Check | None = None,
) -> Any:
    """A field of a dataclass that a user sets by a flag; parameters as in `Flag`, and `check` its bounds."""
    flag = Flag(names=names, help=help, panel=panel, values=values, metavar=metavar, shown=shown)
    return dataclasses.field(default=default, metadata={"flag": flag, "check": check})


def checked(check: Check, *, default: Any = dataclasses.MISSING) -> Any:
    """A field of a dataclass that has bounds, and no flag of its own."""
    return dataclasses.field(default=default, metadata={"check": check})


def flags(group: type) -> dict[str, Flag]:
    """The flags of a dataclass's fields, by field, in their order; fields without one are left out."""
    return {field.name: field.metadata["flag"] for field in dataclasses.fields(group) if "flag" in field.metadata}


def check_fields(options: object) -> None:
    """Check the fields of a frozen dataclass, as each declares, and make their values plain Python's.

    None is not checked where it is the default: nothing is asked for.

    Raises
    ------
    OptionError
    """
    check_types(options)
    set_field = partial(object.__setattr__, options)
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value, check = getattr(options, field.name), field.metadata.get("check")
        if check is not None and not (value is None and field.default is None):
            set_field(field.name, check(field.name, value))
