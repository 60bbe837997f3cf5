"""Stacks of images that exist already, of anyone, made anew: only the rows of a table, in its order."""

from __future__ import annotations

from cryobox.restacking.asked import Asked
from cryobox.restacking.making import Restacked, restack_particles

__all__ = ["Asked", "Restacked", "restack_particles"]
