"""CryoSPARC tables (`.cs`, `.csg`): what their columns mean. What extraction writes into them: `cs_output`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import InputError
from cryobox.formats.columns import CTF_NEUTRAL, EXACT_CENTER, to_tag
from cryobox.formats.cs_output import (
    build_particles,
    write_incomplete,
    write_particles,
    write_rejected,
)
from cryobox.formats.cs_table import Table, as_text, prefixes, read_table, write_table
from cryobox.formats.csg import read_group, write_group
from cryobox.micrograph import Micrographs, Optics
from cryobox.particles import Alignment, Particles
from cryobox.paths import Start, find_file

__all__ = [
    "alignments_of",
    "build_particles",
    "floats",
    "read_micrographs",
    "read_particles",
    "stack_suffix",
    "suffix",
    "write_group",
    "write_incomplete",
    "write_particles",
    "write_rejected",
    "write_table",
]

suffix = ".cs"
stack_suffix = ".mrc"

_EXACT = EXACT_CENTER.field
ALIGNMENT_KINDS: dict[str, Literal["3d", "2d"]] = {"alignments3D": "3d", "alignments2D": "2d"}
PIXEL_SIZE_TOLERANCE = 1e-4  # relative; float32 columns agree to 1e-7, another binning is a factor


def read_particles(path: Path | str) -> Particles:
    """Read picks or particles from a `.cs` (NumPy or CSDAT form) or `.csg` file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Particles
        `table` is the structured array; `from_fractions` is True.

    Raises
    ------
    InputError
        If the file cannot be read, has no locations or a uid twice, or rows of one micrograph contradict each other.
    """
    table, warnings = _load(Path(path))
    source = str(path)
    _require(source, table, ("location/center_x_frac", "location/center_y_frac", "location/micrograph_shape"))
    names = table.dtype.names or ()
    if "uid" in names:
        _check_unique(source, _integers(source, table, "uid").astype(np.uint64), "particles")
    paths = _text_column(source, table, "location/micrograph_path") if "location/micrograph_path" in names else None
    uids = _integers(source, table, "location/micrograph_uid") if "location/micrograph_uid" in names else None
    if paths is None and uids is None:
        raise InputError(f"{source}: location/micrograph_path is missing, and location/micrograph_uid too")
    micrograph, first = _distinct([column for column in (paths, uids) if column is not None], len(table))
    micrograph_uids = None if uids is None or not uids[first].any() else uids[first].astype(np.uint64)
    grid_shape = _integers(source, table, "location/micrograph_shape", (2,))[first].astype(np.int64)
    micrograph_names = _micrograph_names(source, table, first, micrograph_uids)
    _check_grid(source, table, micrograph, grid_shape, micrograph_names)
    y, x = (
        floats(source, table, f"location/center_{axis}_frac") * grid_shape[micrograph, side]
        for side, axis in enumerate("yx")
    )
    score = floats(source, table, "pick_stats/ncc_score") if "pick_stats/ncc_score" in names else None
    return Particles(
        family="cs",
        source=source,
        y=y,
        x=x,
        micrograph=micrograph,
        micrograph_names=micrograph_names,
        micrograph_uids=micrograph_uids,
        from_fractions=True,
        grid_shape=grid_shape,
        grid_pixel_size=_grid_pixel_size(source, table, micrograph, first, micrograph_names),
        exact=floats(source, table, _EXACT) > 0 if _EXACT in names else None,
        score=score,
        alignments=alignments_of(source, table),
        copy_of=_copies(source, table),
        table=table,
        warnings=(*warnings, *_said_of_shifts(source, table)),
    )


def _said_of_shifts(source: str, table: Table) -> tuple[str, ...]:
    """Alignments whose shifts have no unit, so that nothing is recentered by them."""
    names = table.dtype.names or ()
    lost = [
        field
        for field in names
        if field.endswith("/shift")
        and f"{field.removesuffix('shift')}psize_A" not in names
        and table.dtype[field].base.kind == "f"
        and table[field].any()
    ]
    return tuple(
        f"{source}: {field} has no {field.removesuffix('shift')}psize_A, which says how large its pixels are; these "
        "shifts are not used"
        for field in lost
    )


def read_micrographs(path: Path | str, *, start: Start | None = None) -> Micrographs:
    """Read exposures or micrographs from a `.cs` or `.csg` file.

    Parameters
    ----------
    path : Path
    start : Start, optional
        Where relative paths in the table start; by default from the working directory. Paths of exported
        tables (`>...`) start from the table's folder first.

    Raises
    ------
    InputError
        If the file cannot be read or has no micrographs, or a uid occurs twice.
    """
    path = Path(path)
    table, warnings = _load(path)
    source = str(path)
    names = table.dtype.names or ()
    blob = "micrograph_blob" if "micrograph_blob/path" in names else "micrograph_blob_non_dw"
    if f"{blob}/path" not in names:
        raise InputError(
            f"{source}: no micrographs: missing micrograph_blob/path; the table has {_present(table)}. "
            f"Give the exposures' or micrographs' .cs or .csg"
        )
    raw_paths = [_name(source, raw) for raw in _text_column(source, table, f"{blob}/path").tolist()]
    if f"{blob}/idx" in names and (index := _integers(source, table, f"{blob}/idx")).any():
        row = int(np.argmax(index != 0))
        raise InputError(
            f"{source}: {raw_paths[row]}: is image {index[row]} of a stack; one file per micrograph is needed"
        )
    uids = _integers(source, table, "uid").astype(np.uint64) if "uid" in names else None
    _check_unique(source, uids, "micrographs")
    places = (start or Start.here()).places(path)
    exported = (path.resolve().parent, *places)
    n = len(table)
    pixel_size = (
        _positive(floats(source, table, f"{blob}/psize_A")) if f"{blob}/psize_A" in names else np.full(n, np.nan)
    )
    shape = (
        _integers(source, table, f"{blob}/shape", (2,)).astype(np.int64)
        if f"{blob}/shape" in names
        else np.zeros((n, 2), np.int64)
    )
    optics, optics_index = _optics(source, table, pixel_size)
    return Micrographs(
        family="cs",
        source=source,
        names=tuple(raw.removeprefix(">") for raw in raw_paths),
        paths=tuple(find_file(raw.removeprefix(">"), exported if raw.startswith(">") else places) for raw in raw_paths),
        uids=uids,
        pixel_size=pixel_size,
        shape=shape,
        optics=optics,
        optics_index=optics_index,
        ctf=_neutral_ctf(source, table),
        ctf_type=tuple(map(as_text, _text_column(source, table, "ctf/type").tolist())) if "ctf/type" in names else None,
        table=table,
        warnings=warnings,
    )


def _load(path: Path) -> tuple[Table, tuple[str, ...]]:
    return read_group(path) if path.suffix.lower() == ".csg" else (read_table(path), ())


def _present(table: Table) -> str:
    """The columns of a table in short, for messages."""
    names = table.dtype.names or ()
    short = [f"{prefix}/*" for prefix in prefixes(names)] + [name for name in names if "/" not in name]
    return ", ".join(short[:20]) + (", ..." if len(short) > 20 else "")


def _require(source: str, table: Table, fields: tuple[str, ...]) -> None:
    missing = [field for field in fields if field not in (table.dtype.names or ())]
    if missing:
        raise InputError(
            f"{source}: missing {', '.join(missing)}; the table has {_present(table)}. Particles keep their locations "
            f"in the passthrough table of the job: give the job's .csg, which joins both"
        )


def floats(source: str, table: Table, field: str, shape: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """One column of numbers as float64, of the shape per row that its meaning needs."""
    column = _column(source, table, field, shape, "fiu")
    with np.errstate(invalid="ignore"):  # the bytes of a damaged file may be a signaling nan
        return column.astype(np.float64)


def _integers(source: str, table: Table, field: str, shape: tuple[int, ...] = ()) -> NDArray[Any]:
    return _column(source, table, field, shape, "iu")


def _column(source: str, table: Table, field: str, shape: tuple[int, ...], kinds: str) -> NDArray[Any]:
    column: NDArray[Any] = table[field]
    if column.dtype.kind not in kinds or column.shape[1:] != shape:
        noun = "numbers" if "f" in kinds else "integers"
        expected = noun if not shape else f"arrays of {' x '.join(map(str, shape))} {noun}"
        raise InputError(f"{source}: column {field!r} holds {table.dtype[field]}, expected {expected}")
    return column


def _text_column(source: str, table: Table, field: str) -> NDArray[Any]:
    column: NDArray[Any] = table[field]
    if column.dtype.kind not in "SU" or column.ndim != 1:
        raise InputError(f"{source}: column {field!r} holds {table.dtype[field]}, expected strings")
    return column


def _name(source: str, raw: bytes | str) -> str:
    text = as_text(raw)
    if "\0" in text or text in {"", ">"}:
        raise InputError(f"{source}: {text!r} is not the path of a micrograph")
    return text


def _distinct(columns: list[NDArray[Any]], n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Number the distinct rows in the order of their first appearance: the number of each row, and the first rows.

    Only rows that differ from the one above are looked up: tables are nearly always sorted by micrograph.
    """
    starts_run = np.zeros(n, dtype=bool)
    starts_run[:1] = True
    for column in columns:
        starts_run[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(starts_run)
    numbers: dict[tuple[Any, ...], int] = {}
    keys = zip(*(column[starts].tolist() for column in columns), strict=True)
    codes = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.intp)
    index = codes[np.cumsum(starts_run) - 1] if n else codes
    _, first = np.unique(codes, return_index=True)
    return index, starts[first]


def _micrograph_names(
    source: str, table: Table, first: NDArray[np.intp], uids: NDArray[np.uint64] | None
) -> tuple[str, ...]:
    """The micrographs' paths without `>`; where there is none, CryoSPARC's 21 digits of the uid."""
    if "location/micrograph_path" in (table.dtype.names or ()):
        texts = [as_text(raw).removeprefix(">") for raw in table["location/micrograph_path"][first].tolist()]
    else:
        texts = [""] * len(first)
    for number, text in enumerate(texts):
        if "\0" in text or (not text and (uids is None or uids[number] == 0)):
            raise InputError(f"{source}: row {first[number]}: {text!r} is not the path of a micrograph")
        texts[number] = text or f"{uids[number] if uids is not None else 0:021d}"
    return tuple(texts)


def _check_grid(
    source: str, table: Table, micrograph: NDArray[np.intp], grid_shape: NDArray[np.int64], names: tuple[str, ...]
) -> None:
    differs = (table["location/micrograph_shape"] != grid_shape[micrograph]).any(axis=1)
    if differs.any():
        row = int(np.argmax(differs))
        one, two = table["location/micrograph_shape"][row].tolist(), grid_shape[micrograph[row]].tolist()
        raise InputError(
            f"{source}: picks on {names[micrograph[row]]} say two shapes of it (location/micrograph_shape): "
            f"{two[0]} x {two[1]} and {one[0]} x {one[1]}; extract the two sets apart"
        )
    empty = (grid_shape <= 0).any(axis=1)
    if empty.any():
        name, side = names[int(np.argmax(empty))], grid_shape[int(np.argmax(empty))].tolist()
        raise InputError(
            f"{source}: location/micrograph_shape of {name} is {side[0]} x {side[1]}, so its fractions have no "
            f"meaning; were these particles imported without locations?"
        )


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel sizes; nan where they are not positive numbers."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _grid_pixel_size(
    source: str, table: Table, micrograph: NDArray[np.intp], first: NDArray[np.intp], names: tuple[str, ...]
) -> NDArray[np.float64]:
    if "location/micrograph_psize_A" not in (table.dtype.names or ()):
        return np.full(len(first), np.nan)
    values = _positive(floats(source, table, "location/micrograph_psize_A"))
    per_micrograph = values[first]
    reference = per_micrograph[micrograph]
    differs = np.abs(values - reference) > PIXEL_SIZE_TOLERANCE * reference
    if differs.any():
        row = int(np.argmax(differs))
        raise InputError(
            f"{source}: picks on {names[micrograph[row]]} say two pixel sizes of it (location/micrograph_psize_A): "
            f"{per_micrograph[micrograph[row]]:g} and {values[row]:g} Å; extract the two sets apart"
        )
    return per_micrograph


def alignments_of(source: str, table: Table) -> tuple[Alignment, ...]:
    """The shifts of every alignment in a table."""
    names = table.dtype.names or ()
    found = []
    for field in names:
        name = field.removesuffix("/shift")
        if name == field or f"{name}/psize_A" not in names:
            continue
        several = len(table.dtype[field].shape) == 2
        shift = floats(source, table, field, (*table.dtype[field].shape[:1], 2) if several else (2,))
        width = table.dtype[f"{name}/psize_A"].shape
        pixel_size = floats(source, table, f"{name}/psize_A", width)
        if width:
            columns = pixel_size.reshape(len(table), -1)
            if columns.shape[1] == 0 or (columns != columns[:, :1]).any():
                raise InputError(f"{source}: column '{name}/psize_A' differs within a row; expected one pixel size")
            pixel_size = columns[:, 0]
        found.append(
            Alignment(
                name=name,
                kind=ALIGNMENT_KINDS.get(name, "other"),
                shift=np.ascontiguousarray(shift[..., ::-1]),
                pixel_size=pixel_size,
            )
        )
    return tuple(found)


def _copies(source: str, table: Table) -> NDArray[np.int64] | None:
    if "sym_expand/src_uid" not in (table.dtype.names or ()):
        return None
    origin = _integers(source, table, "sym_expand/src_uid")
    _, codes = np.unique(origin, return_inverse=True)
    return np.where(origin == 0, -1, codes.reshape(len(table))).astype(np.int64)


def _check_unique(source: str, uids: NDArray[np.uint64] | None, what: str) -> None:
    if uids is None:
        return
    values, counts = np.unique(uids[uids != 0], return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{source}: uid {values[np.argmax(counts > 1)]} stands for {counts.max()} {what}; "
            "picks could not be told apart"
        )


def _optics(source: str, table: Table, pixel_size: NDArray[np.float64]) -> tuple[tuple[Optics, ...], NDArray[np.intp]]:
    """One group per distinct (exp_group_id, voltage, Cs, amplitude contrast)."""
    names = table.dtype.names or ()

    def first_of(field: str, otherwise: float) -> NDArray[np.float64]:
        for prefix in ("ctf", "mscope_params"):
            if f"{prefix}/{field}" in names:
                return floats(source, table, f"{prefix}/{field}")
        return np.full(len(table), otherwise)

    columns = [
        first_of("exp_group_id", 0), first_of("accel_kv", -1), first_of("cs_mm", -1), first_of("amp_contrast", -1)
    ]  # fmt: skip
    index, first = _distinct([np.nan_to_num(column, nan=-1) for column in columns], len(table))
    found = []
    for number, row in enumerate(first.tolist()):
        group, *values = (float(column[row]) for column in columns)
        voltage, cs, contrast = (value if value >= 0 else float("nan") for value in values)
        sizes = pixel_size[index == number]
        found.append(
            Optics(
                name=f"exp_group_{int(group)}",
                voltage_kv=voltage,
                cs_mm=cs,
                amplitude_contrast=contrast,
                pixel_size=float(sizes[0]) if (sizes == sizes[0]).all() else float("nan"),
                group_id=int(group),
            )
        )
    return tuple(found), index


def _neutral_ctf(source: str, table: Table) -> dict[str, NDArray[np.float64]]:
    return {
        name: to_tag(quantity, floats(source, table, quantity.field))
        for name, quantity in CTF_NEUTRAL.items()
        if quantity.field in (table.dtype.names or ())
    }
