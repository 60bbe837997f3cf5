"""Which files of a folder are coordinate files of one micrograph each, and what their programs put behind its name."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_of_micrograph", "stem_of_micrograph"]

_EMAN2 = ".json"
_XMIPP = ".xmd"


def is_of_micrograph(file: Path, suffix: str | None) -> bool:
    """Whether a file of a type of coordinates holds those of a micrograph: EMAN2 and Xmipp keep others beside them.

    Parameters
    ----------
    file : Path
    suffix : str, optional
        What the user says that the stems of coordinate files end with.
    """
    kind = file.suffix.lower()
    if kind == _EMAN2:  # info/project.json is the project's
        from cryobox.formats.eman2 import INFO

        return file.stem.endswith(suffix or INFO)
    if kind == _XMIPP:  # config.xmd is the picker's
        from cryobox.formats.xmipp import holds_picks

        return holds_picks(file)
    return True


def stem_of_micrograph(file: Path, suffix: str | None) -> str:
    """The stem of a coordinate file, without what its program always puts behind the micrograph's."""
    if file.suffix.lower() == _EMAN2 and not suffix:
        from cryobox.formats.eman2 import INFO

        return file.stem.removesuffix(INFO)
    return file.stem
