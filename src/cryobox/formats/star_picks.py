"""Which block of a STAR file holds picks, and what a file is that holds none: a project is full of other STAR files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cryobox.errors import InputError
from cryobox.formats.star_table import Block, Floats, Table
from cryobox.formats.star_text import listed

__all__ = ["COORDINATES", "COORDINATE_FILE", "NOT_KNOWN", "check_flat", "check_pair", "find_picks", "is_blank"]

COORDINATES = ("_rlnCoordinateY", "_rlnCoordinateX")
COORDINATE_FILE = "_rlnMicrographCoordinates"
NOT_KNOWN = (b"<NA>", b"None", b"nan")  # crYOLO's

_BLOCKS = ("particles", "images", "coordinates", "coordinate_files", "")
_BESIDE = ("optics", "general", "global")  # say something of the picks, and never hold them
_PER_FRAME = ("_rlnMicrographFrameNumber", "_rlnMicrographShiftX", "_rlnMicrographShiftY")

_MOTION = ("global_shift", "local_shift", "local_motion_model", "hot_pixels")
_MICROGRAPHS = (
    "a table of micrographs: give it with --micrographs, and as PICKS what was picked on them (RELION's autopick.star, "
    "manualpick.star)"
)
_MODEL = "what a classification or refinement has found; its particles stand in the _data.star of the same iteration"
_BY_BLOCK: tuple[tuple[tuple[str, ...], str], ...] = (
    (_MOTION, "motion-correction metadata, which lies beside every micrograph"),
    (("micrographs", "movies"), _MICROGRAPHS),
    (("cryolo",), "crYOLO's CBOX: call it .cbox"),
    (("job", "joboptions_values"), "the settings of a RELION job"),
    (("pipeline_general", "pipeline_processes", "pipeline_nodes"), "RELION's list of the jobs of a project"),
    (("output_nodes",), "RELION's list of what a job has made"),
    (("model_general", "model_classes", "optimiser_general", "sampling_general"), _MODEL),
    (("fsc", "guinier"), "the result of post-processing"),
    (("schedule_general",), "a RELION schedule"),
)
_BY_COLUMN: tuple[tuple[tuple[str, ...], str], ...] = (
    (_PER_FRAME, "motion-correction metadata, which lies beside every micrograph"),
    (
        ("_rlnTomoName", "_rlnCenteredCoordinateXAngst"),
        "a table of tomograms or of particles in them, which are not cut from micrographs",
    ),
    (("_rlnReferenceImage",), "a table of class averages"),
    (("_cisTEMPositionInStack",), "a table of cisTEM, whose columns are not read"),
    (
        ("_rlnImageName",),
        "a table of particles without coordinates: the table from which they were cut has them",
    ),
    (("_rlnMicrographName", "_rlnMicrographMovieName"), _MICROGRAPHS),
)


def find_picks(path: str, blocks: Mapping[str, Block]) -> Table | None:
    """The table of the block that holds picks, or that lists coordinate files; None where there is no pick at all.

    Blocks that RELION and pickers give picks are called particles, images, coordinates, coordinate_files or nothing.
    A block of another name is one where the file holds nothing else. Columns decide, too: motion correction lists hot
    pixels and the places of its patches by coordinates.

    Raises
    ------
    InputError
        If the file is something else, or several blocks hold picks; the message names the blocks.
    """
    tags = {name: block.tags() for name, block in blocks.items()}
    held = [name for name in blocks if _may_hold_picks(name, tags[name])]
    tables = {name: blocks[name].table() for name in held}
    full = [name for name in held if len(tables[name])]
    if len(full) > 1:
        sizes = ", ".join(f"data_{name} ({len(tables[name])} rows)" for name in full)
        raise InputError(f"{path}: {len(full)} blocks hold picks: {sizes}; expected one, put each into its own file")
    named = [name for name in held if name in _BLOCKS]
    chosen = next(iter((*full, *named, *held)), None)
    if chosen is None:
        if all(name in _BESIDE or (name in _BLOCKS and is_blank(block)) for name, block in blocks.items()) and (
            not blocks or any(name in _BLOCKS for name in blocks)
        ):
            return None
        raise _no_picks(path, tags)
    if chosen not in _BLOCKS and any(tags[name] for name in blocks if name not in held and name != "optics"):
        raise _no_picks(path, tags)
    return tables[chosen]


def is_blank(block: Block) -> bool:
    """Whether a block holds nothing at all, or a header without rows."""
    return not len(block.table())


def _may_hold_picks(name: str, tags: Sequence[str]) -> bool:
    if name in _BESIDE or name in _MOTION or any(tag in tags for tag in _PER_FRAME):
        return False
    return any(tag in tags for tag in (*COORDINATES, COORDINATE_FILE))


def _no_picks(path: str, tags: Mapping[str, Sequence[str]]) -> InputError:
    everything = {tag for some in tags.values() for tag in some}
    looks = [text for names, text in _BY_BLOCK if any(name in tags for name in names)]
    found = listed([f"data_{name}" for name in tags])
    if not looks:
        found = listed([f"data_{name} ({listed(some)})" for name, some in tags.items()], 5)
        looks = [text for columns, text in _BY_COLUMN if any(tag in everything for tag in columns)]
        if "particles" in tags:
            looks = [text for text in looks if text != _MICROGRAPHS]
    expected = ", ".join(f"data_{name}" for name in _BLOCKS)
    return InputError(
        f"{path}: no block of picks ({expected}, with {COORDINATES[1]} and {COORDINATES[0]}, or {COORDINATE_FILE}); "
        f"blocks found: {found}" + (f"; this looks like {looks[0]}" if looks else "")
    )


def check_pair(table: Table, tags: Sequence[str]) -> bool:
    """Whether the table has all columns that only mean something together.

    Raises
    ------
    InputError
        If it has some of them.
    """
    there = [tag for tag in tags if tag in table]
    if there and len(there) < len(tags):
        missing = ", ".join(tag for tag in tags if tag not in table)
        raise InputError(
            f"{table.path}: data_{table.block} has {', '.join(there)} without {missing}; expected both or none: add "
            "the column, or remove the one"
        )
    return bool(there)


def check_flat(path: str, name: str, depth: Floats) -> None:
    """Raise `InputError` if picks lie at several depths; values that are not finite say nothing."""
    known = depth[np.isfinite(depth)]
    if len(known) and known.min() != known.max():
        raise InputError(
            f"{path}: {name} goes from {known.min():g} to {known.max():g}: these are picks in tomograms, and particles "
            "are cut from micrographs only (if they are not, remove that column)"
        )
