"""Everything in one go: `python -m bench --data FOLDER`, which is what `make bench` runs."""

from __future__ import annotations

import sys

from bench.endtoend import main

if __name__ == "__main__":
    if not any(argument == "--data" or argument.startswith("--data=") for argument in sys.argv[1:]):
        sys.argv += ["--data", "bench/data"]  # ignored by git
    main()
