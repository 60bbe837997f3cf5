"""Whether stacks, micrographs and tables of anyone are sound: headers, pixels, and what tables say of their images.

Unlike `verification`, which makes a run of cryobox again, this knows nothing of where a file came from.
"""

from __future__ import annotations

from cryobox.soundness.checking import check_files
from cryobox.soundness.findings import Fault, Problem, Soundness

__all__ = ["Fault", "Problem", "Soundness", "check_files"]
