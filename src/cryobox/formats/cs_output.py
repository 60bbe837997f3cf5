"""The `.cs` tables that extraction writes: input columns carried through, images, locations, alignments and CTF set."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox.errors import OptionError
from cryobox.formats.columns import (
    ANGLES,
    CTF_FIELDS,
    CTF_NEUTRAL,
    DEFOCUS,
    DEFOCUS_OFFSET,
    DIVISOR_FIELD,
    MADE,
    MEASURED,
    POSE,
    to_field,
)
from cryobox.formats.cs_table import Table, as_bytes, as_text, write_table
from cryobox.formats.csg import write_group
from cryobox.formats.ctf import NEUTRAL_DEFOCUS, own_ctf
from cryobox.formats.mirroring import is_orientation_field, mirrored_fields
from cryobox.micrograph import Micrographs
from cryobox.particles import Extracted, Particles
from cryobox.rotations import pose_from_euler

__all__ = [
    "build_particles",
    "fraction_at",
    "fraction_of",
    "write_incomplete",
    "write_particles",
    "write_rejected",
]

REASON = "cryobox/reject_reason"
INCOMPLETE_REASON = "cryobox/incomplete_reason"
ROWS_AT_A_TIME = 4096  # while a table is put together: rows that fit a cache, since columns lie scattered over them
NEGATIVE_MARGIN = 2e-3  # pixels: clear of the guard that readers put around integers (1e-3)


def write_particles(
    path: Path,
    particles: Particles,
    micrographs: Micrographs,
    extracted: Extracted,
    *,
    title: str = "Extracted particles",
    created: datetime | None = None,
) -> None:
    """Write the extracted particles as a `.cs` at `path` and the `.csg` that describes it beside it.

    Neither file is published atomically: give a temporary folder, or use `build_particles`, `write_table` and
    `write_group`. See there for the content and the errors.
    """
    table = build_particles(particles, micrographs, extracted)
    write_table(path, table)
    write_group(path.with_suffix(".csg"), path.name, table, created, title=title)


def write_rejected(path: Path, particles: Particles, micrographs: Micrographs, extracted: Extracted) -> None:
    """Write the rejected picks: their input columns, and why (`cryobox/reject_reason`).

    Picks that came as plain coordinates get a location where their micrograph's shape is known, and always
    `cryobox/center_y` and `cryobox/center_x` in pixels.
    """
    _refuse_star(particles)
    if extracted.reasons is None:
        raise OptionError("a table of rejected picks needs a reason for every row")
    columns = _Columns(_own_table(particles), extracted.rows)
    if particles.family == "plain":
        columns.put("uid", "<u8", pick_uids(particles, extracted.picks))
        center = np.stack([particles.y, particles.x], axis=1)[extracted.picks]
        _put_location(columns, particles, micrographs, extracted, center)
        columns.put("cryobox/center_y", "<f8", center[:, 0])
        columns.put("cryobox/center_x", "<f8", center[:, 1])
        _put_filaments(columns, particles, extracted.picks)
    _put_made(columns, extracted)
    columns.put_text(REASON, as_bytes([str(reason) for reason in extracted.reasons]))
    write_table(path, columns.table())


def write_incomplete(path: Path, micrographs: Micrographs, indices: NDArray[np.intp], reasons: tuple[str, ...]) -> None:
    """Write the micrographs that could not be done, in their input columns, and why (`cryobox/incomplete_reason`)."""
    indices = np.asarray(indices, dtype=np.intp)
    columns = _Columns(micrographs.table if micrographs.family == "cs" else None, indices)
    if micrographs.family != "cs":
        columns.put("uid", "<u8", _file_uids(micrographs)[indices])
        columns.put_text("micrograph_blob/path", as_bytes([micrographs.names[index] for index in indices.tolist()]))
        columns.put("micrograph_blob/idx", "<u4", np.zeros(len(indices)))
        columns.put("micrograph_blob/shape", ("<u4", (2,)), micrographs.shape[indices])
        columns.put("micrograph_blob/psize_A", "<f4", micrographs.pixel_size[indices])
    columns.put_text(INCOMPLETE_REASON, as_bytes([str(reason) for reason in reasons]))
    write_table(path, columns.table())


def build_particles(particles: Particles, micrographs: Micrographs, extracted: Extracted) -> Table:
    """The output table: the input's columns for `extracted.rows`, with those that extraction determines.

    `blob/*` describes the stacks. Locations and alignments change where `extracted.moved`, all else passes through:
    same type, bytes and order of columns, ours appended. Picks without CTF get their micrograph's, picks without a uid
    a hash of micrograph, position and row.

    Raises
    ------
    OptionError
        If the picks came from a STAR file.
    """
    _refuse_star(particles)
    own = own_ctf(particles, micrographs, refresh=extracted.refresh_ctf)[extracted.rows]
    if own.any() and not own.all():  # of several tables, of which some have a CTF
        from cryobox.formats.joining import unite_rows

        first, second = (build_particles(particles, micrographs, _some_rows(extracted, mask)) for mask in (own, ~own))
        return unite_rows(own, first, second)
    columns = _Columns(_own_table(particles), extracted.rows)
    if "uid" not in columns:
        columns.put("uid", "<u8", pick_uids(particles, extracted.picks))
    _put_blob(columns, extracted)
    _put_location(columns, particles, micrographs, extracted, extracted.center)
    _put_alignments(columns, extracted)
    _put_ctf(columns, particles, micrographs, extracted)
    if extracted.drop_alignments:
        for field in columns.names():
            if is_orientation_field(field):
                columns.drop(field)
    if particles.family == "plain" and particles.score is not None:
        columns.put("pick_stats/ncc_score", "<f4", particles.score[extracted.picks])
    _put_filaments(columns, particles, extracted.picks)
    for quantity in MEASURED:  # of other images
        columns.drop(quantity.field)
    _put_made(columns, extracted)
    return columns.table()


def _some_rows(extracted: Extracted, mask: NDArray[np.bool_]) -> Extracted:
    return replace(
        extracted,
        picks=extracted.picks[mask],
        rows=extracted.rows[mask],
        micrograph=extracted.micrograph[mask],
        slot=extracted.slot[mask],
        center=extracted.center[mask],
        moved=extracted.moved[mask],
        columns={name: values[mask] for name, values in extracted.columns.items()},
        alignments=tuple(alignment.take(mask) for alignment in extracted.alignments),
    )


def fraction_of(center: NDArray[np.int64], extent: NDArray[np.int64]) -> NDArray[np.float32]:
    """Integer positions as float32 fractions of `extent` from which truncation gives the integers back.

    Positive fractions are nudged up by a last bit where rounding went down. Negative ones (boxes centered outside
    the image) stand 2e-3 pixels away from zero, so that a guard around integers does not pull them to the next one.
    """
    center, extent = np.broadcast_arrays(np.asarray(center, np.int64), np.asarray(extent, np.float64))
    aim = np.where(center < 0, center - NEGATIVE_MARGIN, center)
    fraction: NDArray[np.float32] = (aim / extent).astype(np.float32)
    short = (center > 0) & (fraction * extent < center)
    return np.where(short, np.nextafter(fraction, np.float32(np.inf)), fraction)


def fraction_at(position: NDArray[np.float64], extent: NDArray[np.int64]) -> NDArray[np.float32]:
    """Any positions as float32 fractions of `extent` that mean the same pixel; nan where the extent is 0.

    Readers of fractions take what lies within 1e-3 of an integer for that integer, readers of pixels truncate: a
    position that close below the next integer is moved away from it.
    """
    whole = np.trunc(position)
    known = (extent > 0) & np.isfinite(position)
    safe = np.where(extent > 0, extent, 1).astype(np.float64)
    aim = np.copysign(np.minimum(np.abs(position), np.abs(whole) + 1 - NEGATIVE_MARGIN), position)
    fraction: NDArray[np.float32] = (aim / safe).astype(np.float32)
    short = (position > 0) & (fraction * safe < whole)
    fraction = np.where(short, np.nextafter(fraction, np.float32(np.inf)), fraction)
    is_whole = known & (position == whole)
    fraction[is_whole] = fraction_of(whole[is_whole].astype(np.int64), safe[is_whole].astype(np.int64))
    return np.where(known, fraction, np.float32(np.nan))


class _Columns:
    """Columns of an output table: some as they were, some new; copied once, at the end."""

    def __init__(self, table: Table | None, rows: NDArray[np.intp]) -> None:
        self._rows = rows
        self._old = table
        self._new: dict[str, NDArray[Any]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        if table is not None:
            self._dtypes = {name: table.dtype[name] for name in table.dtype.names or ()}

    def __contains__(self, name: str) -> bool:
        return name in self._dtypes

    def get(self, name: str) -> NDArray[Any]:
        if name in self._new:
            return self._new[name]
        assert self._old is not None
        column: NDArray[Any] = self._old[name][self._rows]
        return column

    def put(self, name: str, kind: Any, values: Any, where: NDArray[np.bool_] | None = None) -> None:
        """Set a column; with `where` only those rows of one that exists. An existing column keeps its type."""
        existed = name in self
        dtype = self._dtypes.setdefault(name, np.dtype(kind))
        column = np.zeros((len(self._rows), *dtype.shape), dtype=dtype.base)
        column[...] = values
        if where is not None and existed:
            wide = where.reshape(-1, *(1,) * (column.ndim - 1))
            column = np.where(wide, column, self.get(name))
        self._new[name] = column

    def put_text(self, name: str, values: NDArray[np.bytes_], where: NDArray[np.bool_] | None = None) -> None:
        """Set a column of strings; with `where` only those rows of one that exists, made wider if need be."""
        if where is not None and name in self:
            if not where.any():
                return
            old = self.get(name)
            new = np.char.decode(values, "utf-8", "surrogateescape") if old.dtype.kind == "U" else values
            values = np.where(where, new, old)
        self._dtypes[name] = values.dtype
        self._new[name] = values

    def put_field(self, name: str, values: NDArray[Any]) -> None:
        """Set a column to values of another table, with their type."""
        self._dtypes[name] = np.dtype((values.dtype, values.shape[1:]))
        self._new[name] = values

    def names(self) -> tuple[str, ...]:
        return tuple(self._dtypes)

    def drop(self, name: str) -> None:
        self._dtypes.pop(name, None)
        self._new.pop(name, None)

    def table(self) -> Table:
        fields = [("uid", self._dtypes["uid"])] if "uid" in self._dtypes else []
        for name, dtype in self._dtypes.items():
            if dtype.base.kind in "SU" and dtype.base.itemsize == 0:  # no reader of CryoSPARC's takes empty strings
                dtype = np.dtype((f"{dtype.base.kind}1", dtype.shape))
            if name != "uid":
                fields.append((name, dtype))
        table = np.zeros(len(self._rows), dtype=fields)
        for start in range(0, len(table), ROWS_AT_A_TIME):
            part = slice(start, start + ROWS_AT_A_TIME)
            old = None if self._old is None else self._old[self._rows[part]]
            for name, _ in fields:
                if name in self._new:
                    table[name][part] = self._new[name][part]
                elif old is not None:
                    table[name][part] = old[name]
        return table


def _own_table(particles: Particles) -> Table | None:
    """The table that the picks came from, if it was one of CryoSPARC's."""
    table: Table | None = particles.table if particles.family == "cs" else None
    return table


def _refuse_star(particles: Particles) -> None:
    if particles.family == "star":
        raise OptionError(
            f"{particles.source}: picks of a STAR file are written as STAR; `cryobox convert` turns tables of one "
            f"family into the other's"
        )


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1  # 0 means "no uid"


def pick_uids(particles: Particles, picks: NDArray[np.intp]) -> NDArray[np.uint64]:
    """A uid for each pick: a hash of micrograph, position and row of the input, so that outputs are reproducible."""
    uids = [0] * len(particles.micrograph_names)
    if particles.micrograph_uids is not None:
        uids = particles.micrograph_uids.tolist()
    micrograph = particles.micrograph[picks].tolist()
    centers = zip(particles.y[picks].tolist(), particles.x[picks].tolist(), strict=True)
    return np.array(
        [
            _hash(f"{particles.micrograph_names[m]}\0{uids[m]}\0{y!r}\0{x!r}\0{row}")
            for m, (y, x), row in zip(micrograph, centers, particles.rows_of(picks).tolist(), strict=True)
        ],
        dtype=np.uint64,
    )


def _file_uids(micrographs: Micrographs) -> NDArray[np.uint64]:
    """The micrographs' own uids, and a hash of the name where there is none."""
    uids = np.zeros(len(micrographs), dtype=np.uint64) if micrographs.uids is None else micrographs.uids
    return np.array(
        [uid or _hash(name) for uid, name in zip(uids.tolist(), micrographs.names, strict=True)], dtype=np.uint64
    )


def _file_names(micrographs: Micrographs) -> list[str]:
    """The micrographs' names as a new table in another folder must write them.

    Paths of an exported table (`>...`) start from that table's folder, so that only the whole path stays true.
    """
    names = list(micrographs.names)
    if micrographs.family == "cs":
        fields = micrographs.table.dtype.names
        blob = "micrograph_blob" if "micrograph_blob/path" in fields else "micrograph_blob_non_dw"
        for number, raw in enumerate(micrographs.table[f"{blob}/path"].tolist()):
            if as_text(raw).startswith(">"):
                names[number] = str(Path(micrographs.paths[number]))
    return names


def _put_filaments(columns: _Columns, particles: Particles, picks: NDArray[np.intp]) -> None:
    """A uid for each filament of each micrograph; 0 for picks of none."""
    if particles.tube is None or particles.family != "plain":
        return
    pairs = zip(particles.micrograph[picks].tolist(), particles.tube[picks].tolist(), strict=True)
    uids = [_hash(f"{particles.micrograph_names[m]}\0{tube}") | 2**32 if tube else 0 for m, tube in pairs]
    columns.put("filament/filament_uid", "<u8", np.array(uids, np.uint64))


def _put_blob(columns: _Columns, extracted: Extracted) -> None:
    used, stack = np.unique(extracted.micrograph, return_inverse=True)
    columns.put_text("blob/path", as_bytes([extracted.stack[number] for number in used.tolist()])[stack])
    columns.put("blob/idx", "<u4", extracted.slot)
    columns.put("blob/shape", ("<u4", (2,)), extracted.size)
    box = extracted.box if extracted.boxes is None else extracted.boxes[extracted.micrograph]
    columns.put("blob/psize_A", "<f4", extracted.pixel_size[extracted.micrograph] * box / extracted.size)
    columns.put("blob/sign", "<f4", 1 if extracted.steps.invert else -1)
    columns.put("blob/import_sig", "<u8", 0)


def _put_location(
    columns: _Columns, particles: Particles, micrographs: Micrographs, extracted: Extracted, center: NDArray[Any]
) -> None:
    """Location columns: of the rows that moved where the picks have them, of all rows where they do not.

    What describes the micrograph is written for all rows of a micrograph or for none, so that they agree.
    """
    own = "location/center_x_frac" in columns
    moved = extracted.moved if own else np.ones(len(extracted), dtype=bool)
    if own and not moved.any():
        return
    micrograph, pick_micrograph = extracted.micrograph, particles.micrograph[extracted.picks]
    rewritten = np.isin(pick_micrograph, pick_micrograph[moved])
    # One entry more than there are micrographs, for rows (-1) whose micrograph is not among them.
    shape = np.concatenate([extracted.shape, np.zeros((1, 2), np.int64)])[micrograph]
    if not own or micrographs.uids is not None:
        uids = np.append(_file_uids(micrographs), np.uint64(0))[micrograph]
        columns.put("location/micrograph_uid", "<u8", uids, rewritten)
    if not own:
        columns.put("location/exp_group_id", "<u4", _group_ids(micrographs, micrograph))
    names, renamed = _location_names(particles, micrographs, pick_micrograph, micrograph)
    if not own or (rewritten & renamed).any():
        columns.put_text("location/micrograph_path", names, rewritten & renamed if own else None)
    columns.put("location/micrograph_shape", ("<u4", (2,)), shape, rewritten)
    columns.put("location/micrograph_psize_A", "<f4", np.append(extracted.pixel_size, np.nan)[micrograph], rewritten)
    for side, axis in ((1, "x"), (0, "y")):
        fraction = _fraction(center[:, side], shape[:, side])
        columns.put(f"location/center_{axis}_frac", "<f4", fraction, moved)
    if not own:
        columns.put("location/min_dist_A", "<f4", 0)


def _location_names(
    particles: Particles, micrographs: Micrographs, pick_micrograph: NDArray[np.intp], micrograph: NDArray[np.intp]
) -> tuple[NDArray[np.bytes_], NDArray[np.bool_]]:
    """The name of each row's micrograph as its file is called, and whether the picks call it otherwise.

    Found for each distinct pair of names: comparing a million strings takes seconds.
    """
    key = pick_micrograph * (len(micrographs) + 1) + micrograph + 1
    pairs, pair = np.unique(key, return_inverse=True)
    in_picks, in_files = np.divmod(pairs, len(micrographs) + 1)
    ours = [particles.micrograph_names[number] for number in in_picks.tolist()]
    files = ["", *_file_names(micrographs)]
    names = [files[number] or own for number, own in zip(in_files.tolist(), ours, strict=True)]
    renamed = np.array([name != own for name, own in zip(names, ours, strict=True)], dtype=bool)
    return as_bytes(names)[pair], renamed[pair]


def _fraction(center: NDArray[Any], extent: NDArray[np.int64]) -> NDArray[np.float32]:
    """Positions as fractions; nan where the extent is not known."""
    safe = np.where(extent > 0, extent, 1)
    whole = np.issubdtype(center.dtype, np.integer)
    fraction = fraction_of(center, safe) if whole else (center / safe).astype(np.float32)
    return np.where(extent > 0, fraction, np.float32(np.nan))


def _put_alignments(columns: _Columns, extracted: Extracted) -> None:
    if not extracted.realigned.any():
        return
    for alignment in extracted.alignments:
        columns.put(f"{alignment.name}/shift", "<f4", alignment.shift[..., ::-1], extracted.realigned)


def _put_made(columns: _Columns, extracted: Extracted) -> None:
    """What the plan says of the rows, under the fields of `MADE`."""
    given = extracted.columns
    if all(name in given for name in ANGLES):
        angles = np.stack([given[name] for name in ANGLES], axis=1)
        known = np.isfinite(angles).all(axis=1)
        columns.put(POSE, ("<f4", (3,)), pose_from_euler(np.where(known[:, None], angles, 0.0)), known)
    for name, values in given.items():
        quantity = MADE[name]
        if not quantity.field or quantity.field == POSE:
            continue
        if quantity in MEASURED:
            columns.put_field(quantity.field, values)
        elif values.dtype.kind == "f":
            known = np.isfinite(values)
            columns.put(quantity.field, quantity.kind, np.where(known, to_field(quantity, values), 0.0), known)
        elif values.dtype.kind in "iu":
            columns.put(quantity.field, quantity.kind, values - values.dtype.type(quantity.offset))
        else:
            columns.put_text(quantity.field, as_bytes([str(value) for value in values.tolist()]))


def _group_ids(micrographs: Micrographs, micrograph: NDArray[np.intp]) -> NDArray[np.int64]:
    """exp_group_id of each row's micrograph; 0 where none is known."""
    ids = np.array([*(group.group_id for group in micrographs.optics), 0], dtype=np.int64)
    optics = np.append(micrographs.optics_index, -1)
    group = ids[np.where(micrograph >= 0, optics[micrograph], -1)]
    return np.where((group >= 0) & (group < 2**32), group, 0)


def _put_ctf(columns: _Columns, particles: Particles, micrographs: Micrographs, extracted: Extracted) -> None:
    """All of `ctf/` from one place: the picks where they have a defocus that is not to be refreshed, else exposures."""
    own = own_ctf(particles, micrographs, refresh=extracted.refresh_ctf)[extracted.rows]
    if len(own) and own.all():
        _put_own_ctf(columns, particles, micrographs, extracted)
    elif NEUTRAL_DEFOCUS in micrographs.ctf:
        _put_micrograph_ctf(columns, micrographs, extracted.micrograph)
    elif "ctf/df1_A" not in columns:
        return
    if "ctf/exp_group_id" not in columns:
        columns.put("ctf/exp_group_id", "<u4", _group_ids(micrographs, extracted.micrograph))
    columns.put(DIVISOR_FIELD, "<f4", extracted.steps.divisor)
    if DEFOCUS_OFFSET in extracted.columns:
        for field in (CTF_NEUTRAL[name].field for name in DEFOCUS):
            if field in columns:
                columns.put(field, "<f4", columns.get(field) + extracted.columns[DEFOCUS_OFFSET])


def _put_own_ctf(columns: _Columns, particles: Particles, micrographs: Micrographs, extracted: Extracted) -> None:
    """The picks' values stay; what CryoSPARC needs beside them and they lack is their exposure's."""
    table = _own_table(particles)
    if table is not None and any(extracted.mirrored):
        for field, values in mirrored_fields(table, extracted.rows, extracted.mirrored).items():
            columns.put(field, values.dtype, values)
    for field, values in _optics_fields(micrographs, extracted.micrograph).items():
        if field not in columns:
            columns.put(field, "<f4", values)


def _optics_fields(micrographs: Micrographs, micrograph: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
    groups = [(group.voltage_kv, group.cs_mm, group.amplitude_contrast) for group in micrographs.optics]
    values = np.array([*groups, (np.nan,) * 3])[micrographs.optics_index[micrograph]]
    return {field: values[:, i] for i, field in enumerate(("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast"))}


def _put_micrograph_ctf(columns: _Columns, micrographs: Micrographs, micrograph: NDArray[np.intp]) -> None:
    """All CTF columns of a particle from its micrograph; what its table does not have is what no refinement leaves.

    Fields of `ctf/` that only the picks have describe another fit, and go.
    """
    has = (micrographs.table.dtype.names or ()) if micrographs.family == "cs" else ()
    for field in columns.names():
        if (
            field.startswith("ctf/")
            and field not in (*_EXTRACTED, *_TYPED)
            and (field not in has or field == "ctf/path")
        ):
            columns.drop(field)  # ctf/path is the spline of the micrograph, of which only the average is taken
    kinds = micrographs.ctf_type or ("imported",) * len(micrographs)
    columns.put_text("ctf/type", as_bytes(kinds)[micrograph])
    columns.put("ctf/exp_group_id", "<u4", _group_ids(micrographs, micrograph))
    numbers = _optics_fields(micrographs, micrograph)
    for field, values in numbers.items():
        if (scope := field.replace("ctf/", "mscope_params/")) in columns:
            columns.put(scope, "<f4", values)
    for name, quantity in CTF_NEUTRAL.items():
        if name in micrographs.ctf:
            numbers[quantity.field] = to_field(quantity, micrographs.ctf[name][micrograph])
    numbers.setdefault("ctf/df2_A", numbers["ctf/df1_A"])
    numbers.setdefault("ctf/df_angle_rad", np.zeros(len(micrograph)))
    for field, (width, value) in _EXTRACTED.items():
        kind = ("<f4", (width,)) if width else "<f4"
        if width and field in has and micrographs.table[field].shape[1:] == (width,):
            columns.put(field, kind, micrographs.table[field][micrograph])
        else:
            columns.put(field, kind, numbers.get(field, value))
    for field in columns.names():  # a fit's resolution, figures of merit
        if field.startswith("ctf/") and field in has and field not in (*_EXTRACTED, *_TYPED):
            columns.put_field(field, micrographs.table[field][micrograph])


_TYPED = ("ctf/type", "ctf/exp_group_id")
# Fields of `ctf/` that CryoSPARC's extraction writes as numbers, in its order: how many, and what stands there where
# nothing was fitted.
_EXTRACTED = {
    f"ctf/{name}": facts
    for name, facts in {
        **dict.fromkeys(("accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad"), (0, np.nan)),
        **CTF_FIELDS,
    }.items()
}
