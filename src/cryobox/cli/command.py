"""Commands whose options are the fields of dataclasses: signatures for typer, made of what the fields declare."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cryobox.declared import Flag, flags

__all__ = ["Asked", "Some", "takes"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says for the fields of one dataclass.

    Parameters
    ----------
    values : dict
        By field, defaults included.
    given : frozenset of str
        Fields that stand there.
    """

    values: dict[str, Any]
    given: frozenset[str]


@dataclass(frozen=True, slots=True)
class Some:
    """Some fields of a dataclass: those that mean something to the command."""

    group: type
    names: tuple[str, ...]


def takes(*groups: type | Some) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: it is called with the context, and one `Asked` for each of `groups`."""

    def make(function: Callable[..., None]) -> Callable[..., None]:
        declared = [_flags(group) for group in groups]

        def command(context: typer.Context, **values: Any) -> None:
            function(context, *(_asked(context, fields, values) for fields in declared))

        parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        for some, fields in zip(groups, declared, strict=True):
            group = some.group if isinstance(some, Some) else some
            hints, of_name = typing.get_type_hints(group), {field.name: field for field in dataclasses.fields(group)}
            parameters += [_parameter(name, flag, hints[name], of_name[name]) for name, flag in fields.items()]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return make


def _flags(group: type | Some) -> dict[str, Flag]:
    if not isinstance(group, Some):
        return flags(group)
    declared = flags(group.group)
    return {name: declared[name] for name in group.names}


def _parameter(name: str, flag: Flag, kind: Any, field: dataclasses.Field[Any]) -> inspect.Parameter:
    default = ... if field.default is dataclasses.MISSING else field.default
    if flag.values is not None:
        kind, default = bool, default == flag.values[0]
    is_switch = kind in (bool, bool | None)
    shared: dict[str, Any] = {"help": flag.help, "rich_help_panel": flag.panel}
    if flag.metavar is not None or is_switch:
        shared["metavar"] = flag.metavar or ""
    has_opposite = is_switch and "/" in flag.names[0] and default is not None
    if flag.shown or (default in (None, (), False) and not has_opposite):
        shared["show_default"] = flag.shown or False
    about = typer.Option(*flag.names, **shared) if flag.names else typer.Argument(**shared | {"rich_help_panel": None})
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is ... else default,
        annotation=Annotated[_plain(kind), about],
    )


def _plain(kind: Any) -> Any:
    """The type that typer reads a word as: several texts are a list."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        parts = [_plain(part) for part in typing.get_args(kind)]
        return typing.Union[tuple(parts)]  # noqa: UP007 -- made of parts that are not known here
    several = getattr(typing.get_origin(kind), "__name__", "") == "Sequence" or typing.get_args(kind)[1:] == (...,)
    return list[str] if several else kind


def _asked(context: typer.Context, fields: dict[str, Flag], values: dict[str, Any]) -> Asked:
    found = {}
    for name, flag in fields.items():
        value = values[name]
        found[name] = value if flag.values is None else flag.values[0 if value else 1]
    sources = {name: context.get_parameter_source(name) for name in fields}
    given = {name for name, source in sources.items() if source and source.name in ("COMMANDLINE", "ENVIRONMENT")}
    return Asked(found, frozenset(given))
