"""The report of a run: one HTML file that needs nothing else, and pictures of stacks."""

from __future__ import annotations

from pathlib import Path

from cryobox.errors import MissingExtraError

__all__ = ["require_extra", "write_report"]


def require_extra() -> None:
    """Raise `MissingExtraError` unless the libraries that a report needs are installed."""
    from importlib.util import find_spec

    missing = [name for name in ("jinja2", "matplotlib", "PIL") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"it needs {' and '.join(missing)}: pip install cryobox[report]")


def write_report(folder: str | Path) -> Path:
    """Write `report.html` into the output folder of a run, from what the run recorded; also while it goes on.

    Tables and headers are read again and the plan is made again, as they were when the run began. Relative paths
    start in the working directory that the run had.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    MissingExtraError
        If the extra `report` is not installed.
    InputError
        If the folder holds no run, or its inputs are no longer there.
    """
    require_extra()
    from cryobox.reporting.page import write_page

    return write_page(Path(folder))
