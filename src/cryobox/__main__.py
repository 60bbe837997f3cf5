"""`python -m cryobox` is the `cryobox` command."""

from __future__ import annotations

from cryobox.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
