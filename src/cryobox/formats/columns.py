"""One name for each quantity of a particle: its STAR tag, its `.cs` field, unit and type, and what it depends on.

Readers, writers and `convert` take tags and fields from here, so that a quantity is described once. What is in neither
list belongs to one family alone and travels along where a table changes family.

Sources: RELION's tables as its programs write them (3.0 to 5); CryoSPARC's as cryosparc-tools' documentation and real
files show them. Terms without a publicly documented relation between the two families (beam tilt, trefoil, Zernike
polynomials, anisotropic magnification) are in `UNRELATED_TAGS` and `UNRELATED_FIELDS`: they are never converted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from cryobox.filtering import MEASURES

__all__ = [
    "CTF_FIELDS",
    "CTF_FILES",
    "CTF_NEUTRAL",
    "CTF_OPTICS",
    "CTF_RESET",
    "DEFOCUS",
    "DEFOCUS_OFFSET",
    "DETECTOR",
    "DIVISOR_FIELD",
    "EXACT_CENTER",
    "IMAGE_FLAGS",
    "MADE",
    "MEASURED",
    "MICROSCOPE",
    "OPTICS_NEUTRAL",
    "QUANTITIES",
    "TILT_CLASS",
    "UNRELATED_FIELDS",
    "UID",
    "UNRELATED_TAGS",
    "Quantity",
    "Topic",
    "is_ctf_tag",
    "to_field",
    "to_tag",
    "topic_of_tag",
]

Floats = NDArray[np.float64]


class Topic(StrEnum):
    """What a column says something about: where that changes, what else is said about it is no longer true."""

    PARTICLE = "particle"  # the pick itself: true whatever is done with it
    IMAGE = "image"
    LOCATION = "location"
    CTF = "ctf"
    ALIGNMENT = "alignment"
    FILAMENT = "filament"
    GROUP = "group"  # which optics group it is in, not what that says


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number that both families write.

    Parameters
    ----------
    name : str
        The neutral name, with its unit.
    tag : str
        STAR column. Its unit is that of `name`. "": RELION has none.
    field : str
        `.cs` field; `*` stands for the alignment that leads. "": CryoSPARC has none.
    kind : str
        NumPy type of one number of the field.
    unit : float
        How many of the field's units one of the tag's is.
    offset : int
        Added to the field's number to get the tag's (classes are counted from 1 in STAR).
    in_optics : bool
        The column stands in data_optics since RELION 3.1, not in the rows.
    topic : Topic
    """

    name: str
    tag: str
    field: str
    kind: str = "<f4"
    unit: float = 1.0
    offset: int = 0
    in_optics: bool = False
    topic: Topic = Topic.CTF


_RADIANS = math.pi / 180

# 1: the position is the particle's very center (`--subpixel`), never to be truncated.
EXACT_CENTER = Quantity(
    name="exact_center", tag="_cryoboxExactCenter", field="cryobox/exact_center", topic=Topic.PARTICLE
)
# What a run measured of the images that it stored: another run's images have others, a copy of these has the same.
MEASURED = tuple(
    Quantity(name=name, tag=f"_cryobox{name.title().replace('_', '')}", field=f"cryobox/{name}", topic=Topic.PARTICLE)
    for name in MEASURES
)

QUANTITIES = (
    Quantity(name="voltage_kv", tag="_rlnVoltage", field="ctf/accel_kv", in_optics=True),
    Quantity(name="cs_mm", tag="_rlnSphericalAberration", field="ctf/cs_mm", in_optics=True),
    Quantity(name="amplitude_contrast", tag="_rlnAmplitudeContrast", field="ctf/amp_contrast", in_optics=True),
    Quantity(name="defocus_u_angstrom", tag="_rlnDefocusU", field="ctf/df1_A"),
    Quantity(name="defocus_v_angstrom", tag="_rlnDefocusV", field="ctf/df2_A"),
    Quantity(name="defocus_angle_degrees", tag="_rlnDefocusAngle", field="ctf/df_angle_rad", unit=_RADIANS),
    Quantity(name="phase_shift_degrees", tag="_rlnPhaseShift", field="ctf/phase_shift_rad", unit=_RADIANS),
    Quantity(name="ctf_bfactor", tag="_rlnCtfBfactor", field="ctf/bfactor"),
    Quantity(name="ctf_scale", tag="_rlnCtfScalefactor", field="ctf/scale"),
    Quantity(
        name="image_pixel_size_angstrom",
        tag="_rlnImagePixelSize",
        field="blob/psize_A",
        in_optics=True,
        topic=Topic.IMAGE,
    ),
    Quantity(
        name="shift_x_angstrom", tag="_rlnOriginXAngst", field="*/shift", topic=Topic.ALIGNMENT
    ),  # times */psize_A
    Quantity(name="shift_y_angstrom", tag="_rlnOriginYAngst", field="*/shift", topic=Topic.ALIGNMENT),
    Quantity(name="class", tag="_rlnClassNumber", field="*/class", kind="<u4", offset=1, topic=Topic.ALIGNMENT),
    Quantity(name="half_set", tag="_rlnRandomSubset", field="*/split", kind="<u4", offset=1, topic=Topic.ALIGNMENT),
    Quantity(name="score", tag="_rlnAutopickFigureOfMerit", field="pick_stats/ncc_score", topic=Topic.PARTICLE),
    EXACT_CENTER,
    Quantity(
        name="position_angstrom",
        tag="_rlnHelicalTrackLengthAngst",
        field="filament/position_A",
        topic=Topic.FILAMENT,
    ),
    *MEASURED,
)

# What the plan makes of picks (`Particles.columns`): none of it is converted by its name alone. A family that has no
# word for a quantity leaves it out. "POSE" stands for CryoSPARC's rotation vector, made of the three angles together.
POSE = "alignments3D/pose"
UID = "_cryosparcUid"  # in STAR tables that were made of a `.cs`
# Å that are added to the defocus of a row, U and V, whichever table it comes from: no column of its own.
DEFOCUS_OFFSET = "defocus_offset_angstrom"
DEFOCUS = ("defocus_u_angstrom", "defocus_v_angstrom")
ANGLES = ("rot_degrees", "tilt_degrees", "psi_degrees")
MADE = {
    quantity.name: quantity
    for quantity in (
        Quantity(name="rot_degrees", tag="_rlnAngleRot", field=POSE, topic=Topic.ALIGNMENT),
        Quantity(name="tilt_degrees", tag="_rlnAngleTilt", field=POSE, topic=Topic.ALIGNMENT),
        Quantity(name="psi_degrees", tag="_rlnAnglePsi", field=POSE, topic=Topic.ALIGNMENT),
        Quantity(
            name="half_set", tag="_rlnRandomSubset", field="alignments3D/split", kind="<u4", offset=1,
            topic=Topic.ALIGNMENT,
        ),
        Quantity(name="tube_id", tag="_rlnHelicalTubeID", field="", kind="<i8", topic=Topic.FILAMENT),
        Quantity(
            name="track_length_angstrom", tag="_rlnHelicalTrackLengthAngst", field="filament/position_A",
            topic=Topic.FILAMENT,
        ),
        Quantity(name="arc_length_angstrom", tag="", field="filament/arc_length_A", topic=Topic.FILAMENT),
        Quantity(name="inter_box_distance_angstrom", tag="", field="filament/inter_box_dist_A", topic=Topic.FILAMENT),
        Quantity(name="rot_prior_degrees", tag="_rlnAngleRotPrior", field="", topic=Topic.ALIGNMENT),
        Quantity(name="tilt_prior_degrees", tag="_rlnAngleTiltPrior", field="", topic=Topic.ALIGNMENT),
        Quantity(name="psi_prior_degrees", tag="_rlnAnglePsiPrior", field="", topic=Topic.ALIGNMENT),
        Quantity(name="x_prior_angstrom", tag="_rlnOriginXPriorAngst", field="", topic=Topic.ALIGNMENT),
        Quantity(name="y_prior_angstrom", tag="_rlnOriginYPriorAngst", field="", topic=Topic.ALIGNMENT),
        Quantity(name="psi_flip_ratio", tag="_rlnAnglePsiFlipRatio", field="", topic=Topic.ALIGNMENT),
        Quantity(name="filament_uid", tag="", field="filament/filament_uid", kind="<u8", topic=Topic.FILAMENT),
        Quantity(name="original_particle", tag="_rlnOriginalParticleName", field="", kind="S", topic=Topic.PARTICLE),
        Quantity(name="source_uid", tag="", field="sym_expand/src_uid", kind="<u8", topic=Topic.PARTICLE),
        Quantity(name="copy_number", tag="", field="sym_expand/idx", kind="<u4", topic=Topic.PARTICLE),
        EXACT_CENTER,
        Quantity(name="uid", tag=UID, field="uid", kind="<u8", topic=Topic.PARTICLE),
        Quantity(name=DEFOCUS_OFFSET, tag="", field=""),
        *MEASURED,
    )
}  # fmt: skip

MICROSCOPE = ("_rlnVoltage", "_rlnSphericalAberration", "_rlnAmplitudeContrast")
_BEAM_TILT = ("_rlnBeamTiltX", "_rlnBeamTiltY")
_MAGNIFICATION = ("_rlnMagMat00", "_rlnMagMat01", "_rlnMagMat10", "_rlnMagMat11")

# Aberrations of the optics: RELION's in mrad and coefficients of Zernike polynomials, CryoSPARC's in Å.
UNRELATED_TAGS = (*_BEAM_TILT, "_rlnOddZernike", "_rlnEvenZernike", *_MAGNIFICATION)
UNRELATED_FIELDS = ("ctf/shift_A", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")

# What makes the CTF of a particle in data_optics. A row's values all come from one table, these included.
CTF_OPTICS = (*MICROSCOPE, *UNRELATED_TAGS)
# RELION 3.0's name for rows of one beam tilt; since 3.1 they are an optics group.
TILT_CLASS = "_rlnBeamTiltClass"
# Describe the detector, whatever CTF was fitted: the micrographs' where they have them.
DETECTOR = ("_rlnMicrographOriginalPixelSize", "_rlnMtfFileName")
# Describe the images that are written, never those that a table came with.
IMAGE_FLAGS = ("_rlnCtfDataAreCtfPremultiplied", "_rlnCtfDataArePhaseFlipped")
# Pictures of a micrograph's spectrum; among particles rlnCtfImage would mean something else.
CTF_FILES = ("_rlnCtfImage", "_rlnCtfPowerSpectrum")
# Columns of the rows that a table may leave out, and what RELION then assumes.
CTF_RESET = {"_rlnPhaseShift": b"0.000000", "_rlnCtfBfactor": b"0.000000", "_rlnCtfScalefactor": b"1.000000"}

# What a micrograph's fit gives row by row, by neutral name: the keys of `Micrographs.ctf`.
CTF_NEUTRAL = {q.name: q for q in QUANTITIES if q.topic is Topic.CTF and not q.in_optics}

# Fields of ctf/ that CryoSPARC's extraction writes, with their widths (0: one number) and values where nothing was
# refined.
CTF_FIELDS: dict[str, tuple[int, float]] = {
    "phase_shift_rad": (0, 0.0),
    "scale": (0, 1.0),
    "scale_const": (0, 1.0),
    "shift_A": (2, 0.0),
    "tilt_A": (2, 0.0),
    "trefoil_A": (2, 0.0),
    "tetra_A": (4, 0.0),
    "anisomag": (4, 0.0),
    "bfactor": (0, 0.0),
}

# What images were divided by: of the images, where the rest of ctf/ is of the micrograph.
DIVISOR_FIELD = "ctf/scale_const"

# What a column of data_optics says of a group that does not have it, where it is not 0.
OPTICS_NEUTRAL = {
    "_rlnMagMat00": "1",
    "_rlnMagMat11": "1",
    "_rlnOddZernike": "[0,0,0,0,0,0]",
    "_rlnEvenZernike": "[0,0,0,0,0,0,0,0,0]",
    "_rlnMtfFileName": "",
}

_DEFOCUS = ("_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle", "_rlnPhaseShift")


def to_field(quantity: Quantity, values: Floats) -> Floats:
    """Values in the tag's unit as the `.cs` field has them."""
    return np.radians(values) if quantity.unit == _RADIANS else values * quantity.unit - quantity.offset


def to_tag(quantity: Quantity, values: Floats) -> Floats:
    """Values of a `.cs` field in the tag's unit."""
    return np.degrees(values) if quantity.unit == _RADIANS else (values + quantity.offset) / quantity.unit


def is_ctf_tag(tag: str) -> bool:
    """Whether a STAR column of the rows is one of the quantities that a fit of the CTF gives, or what is made of it."""
    if tag in IMAGE_FLAGS:
        return False
    return tag in _DEFOCUS or tag in CTF_OPTICS or tag == TILT_CLASS or tag.startswith("_rlnCtf")


_IMAGE_TAGS = frozenset(
    (
        "_rlnImageName", "_rlnImageSize", "_rlnImagePixelSize", "_rlnPixelSize", "_rlnImageDimensionality",
        "_rlnReconstructImageName", "_rlnImageOriginalName", *IMAGE_FLAGS,
    )
)  # fmt: skip
_LOCATION_TAGS = frozenset(
    (
        "_rlnMicrographName", "_rlnCoordinateX", "_rlnCoordinateY", "_rlnMicrographPixelSize",
        "_rlnCenteredCoordinateXAngst", "_rlnCenteredCoordinateYAngst",
    )
)  # fmt: skip
_FILAMENT_TAGS = frozenset(("_rlnHelicalTubeID", "_rlnHelicalTrackLengthAngst", "_rlnHelicalTrackLength"))
_ALIGNMENT_TAGS = frozenset(
    (
        "_rlnClassNumber", "_rlnRandomSubset", "_rlnMaxValueProbDistribution", "_rlnLogLikeliContribution",
        "_rlnNrOfSignificantSamples", "_rlnNormCorrection", "_rlnHelicalTubePitch",
    )
)  # fmt: skip


def topic_of_tag(tag: str) -> Topic:
    """What a STAR column says something about; a column that nobody knows is the particle's own."""
    if is_ctf_tag(tag):
        return Topic.CTF
    if tag in _IMAGE_TAGS:
        return Topic.IMAGE
    if tag in _LOCATION_TAGS:
        return Topic.LOCATION
    if tag in _FILAMENT_TAGS:
        return Topic.FILAMENT
    if tag in _ALIGNMENT_TAGS or tag.startswith(("_rlnAngle", "_rlnOrigin")):
        return Topic.ALIGNMENT
    return Topic.PARTICLE
