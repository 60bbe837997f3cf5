"""Columns of STAR tables by name, as reading and writing both know them, and what the output never takes over."""

from __future__ import annotations

from cryobox.formats.columns import DETECTOR, IMAGE_FLAGS, MEASURED, MICROSCOPE, TILT_CLASS, UNRELATED_TAGS
from cryobox.formats.star_optics import GROUP, MICROGRAPH_PIXEL

__all__ = [
    "DEPTH",
    "DROPPED",
    "DROPPED_30",
    "ENDS_FOLDER",
    "FILLED",
    "IMAGE",
    "MADE_ANEW",
    "NAME",
    "NO_SCORE",
    "ORIGINS",
    "ORIGINS_30",
    "REJECTED",
    "SCORE",
    "TUBE",
    "VERSION",
]

VERSION = b"\n# version 50001\n"
NAME = "_rlnMicrographName"
IMAGE = "_rlnImageName"
SCORE = "_rlnAutopickFigureOfMerit"
NO_SCORE = -999.0  # RELION's for a pick that has none
TUBE = "_rlnHelicalTubeID"
DEPTH = "_rlnCoordinateZ"
ENDS_FOLDER = "STAR_START_END"  # nothing in such files says that their points are not particles
REJECTED = "_cryoboxRejectReason"
ORIGINS = ("_rlnOriginYAngst", "_rlnOriginXAngst")
ORIGINS_30 = ("_rlnOriginY", "_rlnOriginX")

# What describes the images or the microscope of the input row by row: data_optics says it for the new images.
DROPPED = frozenset(
    (
        *ORIGINS_30,
        *MICROSCOPE,
        "_rlnMagnification",
        "_rlnDetectorPixelSize",
        "_rlnPixelSize",
        "_rlnImagePixelSize",
        "_rlnImageSize",
        "_rlnImageDimensionality",
        MICROGRAPH_PIXEL,
        *DETECTOR,
        *IMAGE_FLAGS,
        REJECTED,
        *(quantity.tag for quantity in MEASURED),
    )
)
# Since 3.1 data_optics says these of a particle, whatever 3.0-style rows say.
DROPPED_30 = frozenset((*UNRELATED_TAGS, TILT_CLASS))
# What the output never takes over from rows, so that no 0 is written where a table lacks it.
MADE_ANEW = (DROPPED - {*ORIGINS_30}) | {IMAGE, NAME, GROUP, SCORE}
# Where a table lacks a column in which 0 would say something: begin and length of what stands there, in `filler`.
FILLED = {"_rlnCtfScalefactor": (3, 1), SCORE: (5, 4)}
