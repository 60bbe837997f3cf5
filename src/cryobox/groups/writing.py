"""Options of what tables say, and of how stacks are named."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from cryobox.bounds import (
    MOST_IN_A_STACK,
    MOST_MICROGRAPHS,
    check_integer,
)
from cryobox.declared import TABLES, checked, option
from cryobox.errors import OptionError
from cryobox.groups.words import Style, Tables, one_of

__all__ = [
    "Writing",
]


def _check_limits(name: str, value: object) -> tuple[int, ...]:
    check = partial(check_integer, name, lowest=1, highest=MOST_MICROGRAPHS)
    limits = tuple(map(check, value))  # type: ignore[call-overload]
    if list(limits) != sorted(set(limits)):
        raise OptionError(f"{name} must rise; got {limits}")
    return limits


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Writing:
    """What tables say."""

    style: Style | None = option(
        "--style", default=None, help="Tables, contrast, names", shown="as the picks", panel=TABLES,
        check=one_of(Style),
    )  # fmt: skip
    tables: Tables | None = option(
        "--tables", default=None, help="Whose tables are written over the same stacks", shown="as --style",
        panel=TABLES, check=one_of(Tables),
    )  # fmt: skip
    particles_per_stack: int | None = option(
        "--particles-per-stack", default=None, help="Stacks of several micrographs, up to N particles", panel=TABLES,
        shown="a stack for each micrograph", check=partial(check_integer, lowest=1, highest=MOST_IN_A_STACK),
    )  # fmt: skip
    earlier_limits: tuple[int, ...] = checked(_check_limits, default=())
    refresh_ctf: bool = option(
        "--refresh-ctf", default=False, help="Take CTF values from the micrographs", panel=TABLES
    )
    ctf_average: bool = option(
        "--ctf-average", default=False, help="With --refresh-ctf: accept averages of Patch CTF", panel=TABLES
    )

    def check_together(self) -> None:
        """Compare the fields with each other.

        Raises
        ------
        OptionError
        """
        if self.ctf_average and not self.refresh_ctf:
            raise OptionError("--ctf-average says how --refresh-ctf may work; give both, or neither")
