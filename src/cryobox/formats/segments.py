"""What tables say of segments of helices: tubes, priors and distances along them; RELION's columns and `filament/*`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.star_optics import StarTable
from cryobox.formats.star_tags import IMAGE, ORIGINS, ORIGINS_30, TUBE
from cryobox.particles import Particles

__all__ = ["FILAMENT_UID", "FLIP_RATIO", "Said", "check_are_ends", "said_of_segments", "tubes_said"]

FILAMENT_UID, _POSITION, _POSE = "filament/filament_uid", "filament/position_A", "filament/filament_pose"
_TRACK, _TILT, _PSI = "_rlnHelicalTrackLengthAngst", "_rlnAngleTiltPrior", "_rlnAnglePsiPrior"
FLIP_RATIO = "_rlnAnglePsiFlipRatio"
_NONE = -999.0  # what pickers write as an angle that they did not find

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a table says of each segment; None where it has no such column, nan where it does not know.

    Parameters
    ----------
    tube : ndarray, shape (n,), int64 or uint64
        As numbered there; of a `.cs` the uid of the filament, 0 for none.
    track : ndarray, shape (n,), float64, optional
        Å along the tube.
    psi, tilt : ndarray, shape (n,), float64, optional
        Priors in degrees.
    has_flip_ratio : bool
    pose : ndarray, shape (n,), float64, optional
        filament/filament_pose, in degrees.
    """

    tube: NDArray[np.int64] | NDArray[np.uint64]
    track: Floats | None = None
    psi: Floats | None = None
    tilt: Floats | None = None
    has_flip_ratio: bool = False
    pose: Floats | None = None


def tubes_said(particles: Particles) -> NDArray[np.int64] | None:
    """The number of each pick's tube in a STAR table or in coordinate files; None where nothing says it.

    Raises
    ------
    InputError
        If a number is not whole.
    """
    if particles.family == "plain":
        return particles.tube
    star: StarTable | None = particles.table if particles.family == "star" else None
    if star is None or TUBE not in star.table:
        return None
    rows = particles.rows_of(np.arange(len(particles)))
    values = star.table.floats(TUBE)[rows]
    bad = np.flatnonzero(~(np.abs(values) < 2**53) | (values != np.trunc(values)))
    if len(bad):
        raise InputError(
            f"{particles.source}: row {int(rows[bad[0]]) + 1}: {TUBE} is {values[bad[0]]:g}, expected a whole number"
        )
    return values.astype(np.int64)


def check_are_ends(particles: Particles) -> None:
    """Refuse what cannot be the ends of tubes: particles, with images or shifts.

    Raises
    ------
    InputError
    """
    if particles.family == "cs":
        raise InputError(
            f"{particles.source}: a table of CryoSPARC holds no ends of tubes; its filaments are segments: "
            f"--helix segments"
        )
    if particles.family != "star":
        return
    star: StarTable = particles.table
    found = [tag for tag in (IMAGE, *ORIGINS, *ORIGINS_30) if tag in star.table]
    if found:
        raise InputError(
            f"{particles.source}: has {found[0]}, so its rows are particles, and not the ends of tubes; segments that "
            f"are cut already go with --helix segments"
        )


def said_of_segments(particles: Particles) -> Said:
    """What the table of segments says.

    Raises
    ------
    InputError
        If it does not say which tube a segment belongs to.
    """
    rows = particles.rows_of(np.arange(len(particles)))
    if particles.family == "cs":
        names = particles.table.dtype.names or ()
        if FILAMENT_UID not in names or particles.table.dtype[FILAMENT_UID].shape:
            raise InputError(
                f"{particles.source}: has no {FILAMENT_UID}, so its particles are of no helix; CryoSPARC may keep it "
                f"in the passthrough table of the job: give the job's .csg, which joins both"
            )

        def column(field: str) -> Floats | None:
            if field not in names or particles.table.dtype[field].shape:
                return None
            found: Floats = particles.table[field][rows].astype(np.float64)
            return found

        pose = column(_POSE)
        return Said(
            tube=particles.table[FILAMENT_UID][rows].astype(np.uint64),
            track=column(_POSITION),
            pose=None if pose is None else np.degrees(pose),
        )
    tube = tubes_said(particles)
    if tube is None:
        raise InputError(
            f"{particles.source}: does not say which helix a segment belongs to ({TUBE[1:]}, a .cbox with _filamentid, "
            f"#helix: lines); the ends of tubes go with --helix ends"
        )
    if particles.family == "plain":
        return Said(tube=tube, psi=particles.psi)
    table = particles.table.table

    def numbers(tag: str) -> Floats | None:
        if tag not in table:
            return None
        found = table.floats(tag)[rows]
        return np.where(np.isfinite(found), found, np.nan)

    def angles(tag: str) -> Floats | None:
        found = numbers(tag)
        return None if found is None else np.where(found == _NONE, np.nan, found)

    return Said(
        tube=tube, track=numbers(_TRACK), psi=angles(_PSI), tilt=angles(_TILT), has_flip_ratio=FLIP_RATIO in table
    )
