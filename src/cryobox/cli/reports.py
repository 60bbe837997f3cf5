"""The report that a command writes after everything else."""

from __future__ import annotations

import sys
from pathlib import Path

from cryobox.errors import MissingExtraError

__all__ = ["require_report", "write_report"]


def require_report() -> None:
    from cryobox.reporting import require_extra

    require_extra()


def write_report(folder: Path, *, asked: bool, say: bool) -> Path | None:
    """Write the report after everything else; a run has succeeded even if its report cannot be written."""
    from cryobox import reporting

    try:
        return reporting.write_report(folder)
    except MissingExtraError as error:
        if say:
            print(f"no report: {error}", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 -- whatever is wrong with the report, stacks and tables are whole
        print(f"cryobox: warning: no report: {type(error).__name__}: {error}", file=sys.stderr)
    return None
