"""A filter as a user writes it, `background_sd < 2.5 and contrast > 0.02`: read by a small grammar, never evaluated.

either     = both { "or" both }
both       = one { "and" one }
one        = "not" one | comparison
comparison = sum [ ("<" | "<=" | ">" | ">=" | "==" | "!=") sum ]
sum        = product { ("+" | "-") product }
product    = number { ("*" | "/") number }
number     = digits | name | "-" number | "(" either ")"
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from cryobox.errors import OptionError

__all__ = ["MEASURES", "RELATIVE", "Filter"]

RELATIVE = "background_sd_relative"
"""The measure that is known only when all particles of a micrograph are."""

MEASURES = (
    "image_mean", "image_sd", "image_minimum", "image_maximum", "background_mean", "background_sd", RELATIVE,
    "contrast", "signal_to_noise", "local_variance", "saturated", "dust",
)  # fmt: skip
"""What is measured of each particle: of the image as it is stored at the first size, its background in gray levels of
the micrograph, that relative to the median of the micrograph's particles, and what `Steps.measures` asks for."""

if TYPE_CHECKING:  # options are checked where no array is needed yet
    import numpy as np
    from numpy.typing import NDArray

Columns = Mapping[str, Any]  # of arrays
_Node = Callable[[Columns], Any]

_TOKEN = re.compile(
    r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|(<=|>=|==|!=|[-+*/<>()]))",
    re.ASCII,
)


def _unlike(left: Any, right: Any) -> Any:
    """Whether two numbers differ; what is no number does not."""
    return (left != right) & (left == left) & (right == right)


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": _unlike,
}  # fmt: skip
_MEANT = {"=": " (equal is ==)", "&": " (write and)", "|": " (write or)", "!": " (write not, or !=)"}
_WORDS = ("and", "or", "not")
_REACH = 50  # parentheses and signs inside each other


class Filter:
    """Which rows a text chooses, by columns of numbers.

    Parameters
    ----------
    text : str
    names : collection of str
        The columns that it may name.

    Raises
    ------
    OptionError
        If it is no expression of the grammar, names another column, or says no more than a number.

    Attributes
    ----------
    used : set of str
        The columns that it names.
    """

    def __init__(self, text: str, names: Collection[str]) -> None:
        self._text, self._names = text, names
        self.used: set[str] = set()
        self._tokens = list(self._read(text))
        self._at = self._depth = 0
        self._node, says = self._either()
        if self._at < len(self._tokens):
            raise self._wrong(f"{self._tokens[self._at]!r} is not expected there")
        if not says or not self.used:
            raise self._wrong("it compares nothing" if not says else "it names no column")

    def keeps(self, columns: Columns) -> NDArray[np.bool_]:
        """Which rows are chosen; a comparison with what is not a number is false."""
        import numpy as np

        with np.errstate(all="ignore"):
            return np.asarray(self._node(columns), np.bool_)

    def _wrong(self, why: str) -> OptionError:
        return OptionError(
            f"--filter {self._text!r}: {why}; expected for example background_sd_relative < 1.5 and contrast > 0.02, "
            f"of {', '.join(self._names)}"
        )

    def _no_column(self, name: str) -> OptionError:
        near = difflib.get_close_matches(name.lower(), list(self._names), n=1, cutoff=0)
        return self._wrong(f"{name!r} is no column (nearest: {near[0]})")

    def _read(self, text: str) -> list[str]:
        found, at = [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                mark = text[at:].strip()[0]
                raise self._wrong(f"{mark!r} has no meaning there{_MEANT.get(mark, '')}")
            found.append(match[0].strip())
            at = match.end()
        return found

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, *tokens: str) -> str:
        found = self._next()
        if found and found in tokens:
            self._at += 1
            return found
        return ""

    def _logical(self, node: tuple[_Node, bool]) -> _Node:
        if not node[1]:
            raise self._wrong("a number stands where a comparison should")
        return node[0]

    def _numeric(self, node: tuple[_Node, bool]) -> _Node:
        if node[1]:
            raise self._wrong("a comparison stands where a number should")
        return node[0]

    def _either(self) -> tuple[_Node, bool]:
        return self._joined("or", _or, self._both)

    def _both(self) -> tuple[_Node, bool]:
        return self._joined("and", _and, self._one)

    def _joined(
        self, word: str, join: Callable[..., Any], part: Callable[[], tuple[_Node, bool]]
    ) -> tuple[_Node, bool]:
        first = part()
        if self._next() != word:
            return first
        chain = [(join, self._logical(first))]
        while self._take(word):
            chain.append((join, self._logical(part())))
        return _in_turn(chain), True

    def _one(self) -> tuple[_Node, bool]:
        if self._take("not"):
            with _Deeper(self):
                inner = self._logical(self._one())
            return (lambda columns: _not(inner(columns))), True
        left = self._sum()
        word = self._take(*_COMPARE)
        if not word:
            return left
        found = _both_of(_COMPARE[word], self._numeric(left), self._numeric(self._sum()))
        if self._next() in _COMPARE:
            raise self._wrong("comparisons are joined with `and`")
        return found, True

    def _sum(self) -> tuple[_Node, bool]:
        return self._reckoned({"+": operator.add, "-": operator.sub}, self._product)

    def _product(self) -> tuple[_Node, bool]:
        return self._reckoned({"*": operator.mul, "/": _over}, self._number)

    def _reckoned(
        self, work: Mapping[str, Callable[..., Any]], part: Callable[[], tuple[_Node, bool]]
    ) -> tuple[_Node, bool]:
        first = part()
        if self._next() not in work:
            return first
        chain = [(operator.add, self._numeric(first))]
        while word := self._take(*work):
            chain.append((work[word], self._numeric(part())))
        return _in_turn(chain), False

    def _number(self) -> tuple[_Node, bool]:
        if self._take("-"):
            with _Deeper(self):
                inner = self._numeric(self._number())
            return (lambda columns: -inner(columns)), False
        if self._take("("):
            with _Deeper(self):
                found = self._either()
            if not self._take(")"):
                raise self._wrong("a parenthesis is not closed")
            return found
        token = self._next()
        self._at += 1
        if token and (token[0].isdigit() or token[0] == "."):
            value = float(token)
            return (lambda columns: value), False
        if token in self._names:
            self.used.add(token)
            return (lambda columns: columns[token].astype("float64")), False
        if token[:1].isalpha() or token[:1] == "_":
            raise (
                self._wrong(f"a column or number is missing before {token!r}")
                if token in _WORDS
                else (self._no_column(token))
            )
        raise self._wrong(f"{token!r} is not expected there" if token else "it ends too early")


class _Deeper:
    """Refuses an expression that is nested without end."""

    def __init__(self, owner: Filter) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        self._owner._depth += 1
        if self._owner._depth > _REACH:
            raise self._owner._wrong(f"it is nested more than {_REACH} deep")

    def __exit__(self, *_: object) -> None:
        self._owner._depth -= 1


def _and(left: Any, right: Any) -> Any:
    import numpy as np

    return np.logical_and(left, right)


def _or(left: Any, right: Any) -> Any:
    import numpy as np

    return np.logical_or(left, right)


def _not(value: Any) -> Any:
    import numpy as np

    return np.logical_not(value)


def _over(left: Any, right: Any) -> Any:
    import numpy as np

    return np.divide(left, right)


def _both_of(work: Callable[[Any, Any], Any], left: _Node, right: _Node) -> _Node:
    return lambda columns: work(left(columns), right(columns))


def _in_turn(chain: list[tuple[Callable[..., Any], _Node]]) -> _Node:
    """What is joined from the left to the right, however long it is; the work of the first has no meaning."""

    def found(columns: Columns) -> Any:
        value = chain[0][1](columns)
        for work, node in chain[1:]:
            value = work(value, node(columns))
        return value

    return found
