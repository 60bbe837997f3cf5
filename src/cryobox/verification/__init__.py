"""Check a finished run: everything that it wrote against the plan made again, images against float64."""

from __future__ import annotations

from cryobox.verification.checking import verify
from cryobox.verification.findings import Verification
from cryobox.verification.images import TOLERANCE

__all__ = ["TOLERANCE", "Verification", "verify"]
