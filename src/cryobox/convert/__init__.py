"""Tables of particles from RELION to CryoSPARC and back: coordinates, optics, CTF, alignments. Images stay in place.

Both forms are read into and written from the quantities of `formats/columns.py`. What the other form has no place for
travels along in columns of its own (`_cryosparc.*` in STAR, `cryobox/*` in `.cs`), and is used on the way back where
nothing that it depends on has changed: there and back gives the same table, and what a program changed in between wins.
"""

from __future__ import annotations

from cryobox.convert.conversion import Converted, convert_particles
from cryobox.convert.coordinates import ConvertedPicks, convert_picks

__all__ = ["Converted", "ConvertedPicks", "convert_particles", "convert_picks"]
