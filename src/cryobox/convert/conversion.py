"""A table of particles in the other family's form: read, converted, checked, published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobox.convert.filaments import said_of_filaments
from cryobox.convert.kept import OF_BOTH, OF_RELION, STATE, kept_columns, restored, state, tags_to_keep
from cryobox.convert.places import Grounds, Places, look_at_micrographs
from cryobox.convert.texts import CARRIED, UID, Mask, Star, lead_of, read_star, write_star
from cryobox.convert.to_cs import Fields, fields_of_star, said_of_star
from cryobox.convert.to_star import EXPOSURE_GROUPS, leading, said_of_cs, star_of_cs
from cryobox.convert.travel import (
    Part,
    carried_fields,
    fields_to_carry,
    merged_fields,
    unchanged_parts,
    with_carried,
)
from cryobox.errors import OptionError, OutputError
from cryobox.folder.publish import not_written, publish_files
from cryobox.formats.columns import Topic
from cryobox.formats.cs_table import Table, as_text, read_table, write_table
from cryobox.formats.csg import read_group, write_group
from cryobox.formats.star_text import listed
from cryobox.paths import Start

__all__ = ["Converted", "convert_particles"]

# What a STAR file cannot say of a micrograph and no header is asked for again.
_OF_MICROGRAPHS = ("location/micrograph_shape", "location/micrograph_psize_A", "location/micrograph_uid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a conversion did."""

    rows: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def convert_particles(
    source: str | Path,
    target: str | Path,
    *,
    micrographs: str | None = None,
    root: Path | None = None,
    overwrite: bool = False,
    allow_missing: bool = False,
) -> Converted:
    """Convert a table of particles between STAR and `.cs`; what `target` ends in decides the direction.

    Parameters
    ----------
    source : path
        `.star` (RELION 3.1 and later), `.cs` or `.csg`.
    target : path
        `.star`, or `.cs`, beside which a `.csg` is written.
    micrographs : str, optional
        Table, folder or glob of the micrographs. A `.cs` says where a particle lies in parts of the micrograph's
        sides, which a STAR file does not have. Default: the files that the table names.
    root : Path, optional
        Where relative names start; default: see `cryobox.paths.Start.places`.
    overwrite : bool
        Replace `target`, and the `.csg` beside a `.cs`.
    allow_missing : bool
        Name stacks that are not there.

    Raises
    ------
    InputError, OptionError, OutputError
        Nothing is then written or replaced.
    """
    source, target = Path(source), Path(target)
    kinds = (source.suffix.lower(), target.suffix.lower())
    from_cs = kinds[0] in (".cs", ".csg") and kinds[1] == ".star"
    if not from_cs and kinds != (".star", ".cs"):
        raise OptionError(
            f"{source} to {target}: one of them must be a .star, the other a .cs (a .csg only as the source)"
        )
    for path in (target,) if from_cs else (target, target.with_suffix(".csg")):
        try:
            there = path.exists()
        except OSError as error:
            raise not_written(path, error) from error
        if there and not overwrite:
            raise OutputError(f"{path}: is already there; replace it with --overwrite")
    start = Start.here(None if root is None else root.resolve())
    places = Places.around(source, target, start)
    if from_cs:
        table, told = read_group(source) if kinds[0] == ".csg" else (read_table(source), ())
        star, done = to_star(str(source), table, places)
        write: Callable[[Path], None] = lambda path: write_star(path, star)  # noqa: E731 -- one of two
        done = replace(done, warnings=(*told, *done.warnings))
    else:
        table, done = to_cs(
            star := read_star(source),
            places,
            lambda: look_at_micrographs(star, micrographs, places, start),
            remedy="give --micrographs" if micrographs is None else f"{micrographs} lacks them",
        )

        def write(path: Path) -> None:
            write_table(path, table)
            write_group(path.with_suffix(".csg"), path.name, table, title="Converted particles")

        done = replace(done, notes=(*done.notes, f"group: {target.with_suffix('.csg')}"))
    if not allow_missing:
        places.check_stacks(source)
    publish_files(target.parent, target.name, write, fsync=True)
    return done


def to_star(source: str, table: Table, places: Places) -> tuple[Star, Converted]:
    """The STAR table of a `.cs`, with what travels along."""
    names = table.dtype.names or ()
    lead = leading(names)
    native = star_of_cs(source, table, places)
    grounds = _grounds_of(table)
    quiet = replace(places, missing={})
    unit = table[f"{lead}/psize_A"].astype(np.float64) if lead else None

    def again_of(star: Star) -> Fields:
        return fields_of_star(star, grounds, quiet, unit, still_3d=lead == "alignments3D")

    star, changed, own = restored(native, table, again_of)
    always = [field for field in _OF_MICROGRAPHS if field in names]
    if own and not changed[Topic.LOCATION].any():
        always = []
    if not changed:  # CryoSPARC's own: an id must not follow the number of the optics group, which RELION gives anew
        always += [field for field in EXPOSURE_GROUPS if field in names]
    if lead and np.any(table[f"{lead}/psize_A"] != table["blob/psize_A"]):
        always.append(f"{lead}/psize_A")
    fields = fields_to_carry(table, again_of(star), always)
    star, left = with_carried(star, table, fields, described=not own)
    warnings, notes = said_of_cs(table, lead)
    warnings += said_of_filaments(table, native.columns)
    if left:
        warnings.append(f"{listed(left)}: of a type that no STAR file can hold; left out")
    return star, Converted(rows=len(table), warnings=tuple(warnings), notes=tuple(notes))


def _grounds_of(table: Table) -> Grounds:
    names = table.dtype.names or ()
    grounds = Grounds.none(len(table))
    if "location/micrograph_shape" in names:
        grounds = replace(grounds, shape=table["location/micrograph_shape"].astype(np.int64), in_table=True)
    if "location/micrograph_psize_A" in names:
        grounds = replace(grounds, pixel_size=table["location/micrograph_psize_A"].astype(np.float64))
    if "location/micrograph_uid" in names:
        grounds = replace(grounds, uid=table["location/micrograph_uid"])
    return grounds


def to_cs(
    star: Star,
    places: Places,
    look: Callable[[], Grounds],
    *,
    remedy: str = "give --micrographs",
    stored: Mapping[str, float] | None = None,
) -> tuple[Table, Converted]:
    """The `.cs` of a STAR table; `look` says what that does not of the micrographs, where it must be known.

    `stored` has fields that say what was done to the images, which no STAR file does: of who made them.
    """
    carried, there = carried_fields(star)
    unchanged = unchanged_parts(star)
    grounds = Grounds.none(len(star))
    known = there.get(_OF_MICROGRAPHS[0], np.zeros(len(star), np.bool_))
    if _OF_MICROGRAPHS[0] not in carried or not (unchanged[Part.MICROGRAPH] & unchanged[Part.LOCATION] & known).all():
        grounds = look()  # else nothing new can be learnt from the files
    grounds = _with_carried_grounds(star, grounds, carried, there, unchanged)
    if len(star):  # where all rows are new, the columns say for themselves what they are
        still_3d = lead_of(star) == "alignments3D" and bool(unchanged[Part.ALIGNMENT].any())
    else:
        still_3d = leading([name for name, _, _ in star.fields]) == "alignments3D"
    made = fields_of_star(star, grounds, places, _unit(star, carried, there, unchanged), still_3d=still_3d)
    fields, dropped = merged_fields(star, made, carried, there, unchanged)
    fields |= {name: np.full_like(fields[name], value) for name, value in (stored or {}).items() if name in fields}
    from_relion = not star.fields and not any(tag.startswith(CARRIED) for tag in star.columns)
    again = None
    if not from_relion:
        again = star_of_cs(star.source, _packed(star, fields), replace(places, missing={}))
    kept = kept_columns(star, *tags_to_keep(star, again))
    if kept:
        kept[STATE] = state(fields, len(star), OF_RELION if from_relion else OF_BOTH, kept)
    fields |= kept
    table = _packed(star, fields)
    warnings = [*_said_of_locations(star, grounds, fields, remedy), *said_of_star(star)]
    notes = []
    if dropped:
        notes.append(f"no longer true since the table was changed, and left out: {listed(dropped, 8)}")
    outside = [raw for raw in np.unique(fields["blob/path"]).tolist() if not as_text(raw).startswith(">")]
    if outside and "blob/path" not in carried:
        notes.append(f"stacks lie outside the table's folder, so their paths are absolute: {as_text(outside[0])}")
    if UID not in star.columns:
        notes.append("the table had no uids: each is a hash of the image's name")
    return table, Converted(rows=len(star), warnings=tuple(warnings), notes=tuple(notes))


def _with_carried_grounds(
    star: Star, grounds: Grounds, carried: Fields, there: Mapping[str, Mask], unchanged: Mapping[Part, Mask]
) -> Grounds:
    """What the `.cs` said of the micrographs, where the particles are where they were, or nothing else is known."""
    shape, pixel, uid = (carried.get(field) for field in _OF_MICROGRAPHS)
    if shape is None or shape.shape != (len(star), 2) or not len(star):
        return grounds
    of_shape, of_pixel, of_uid = (there.get(field, np.ones(len(star), np.bool_)) for field in _OF_MICROGRAPHS)
    same = unchanged[Part.MICROGRAPH] & (unchanged[Part.LOCATION] | ~grounds.shape.all(axis=1)) & of_shape
    pixel = np.full(len(star), np.nan) if pixel is None else pixel
    merged = np.where(same[:, None], shape.astype(np.int64), grounds.shape)
    names = star.columns.get("_rlnMicrographName", [""] * len(star))
    unknown = dict.fromkeys(names[row] for row in np.flatnonzero(~merged.all(axis=1)).tolist())
    own = grounds.uid if grounds.uid is not None else np.zeros(len(star), np.uint64)
    known = unchanged[Part.MICROGRAPH] & of_uid
    return replace(
        grounds,
        shape=merged,
        pixel_size=np.where(same & of_pixel, pixel.astype(np.float64), grounds.pixel_size),
        uid=grounds.uid if uid is None else np.where(known, uid.astype(np.uint64), own),
        in_table=bool(same.any()),
        unknown=tuple(unknown),
    )


def _unit(
    star: Star, carried: Fields, there: Mapping[str, Mask], unchanged: Mapping[Part, Mask]
) -> NDArray[np.float64] | None:
    """Å per unit of the shifts: the alignment's own, where it is the one that the `.cs` had."""
    field = f"{lead_of(star)}/psize_A"
    own = carried.get(field)
    if own is None or own.ndim != 1:
        return None
    pixel = star.positive("_rlnImagePixelSize").astype(np.float32)
    return np.where(unchanged[Part.ALIGNMENT] & there[field], own, pixel).astype(np.float64)


def _said_of_locations(star: Star, grounds: Grounds, fields: Fields, remedy: str) -> list[str]:
    if not star.has("_rlnMicrographName", "_rlnCoordinateX", "_rlnCoordinateY"):
        return [f"{star.source}: has no coordinates or no micrograph names: the table has no locations"]
    if not grounds.unknown or not len(star):
        return []
    count = len(grounds.unknown)
    what = f"{grounds.why}; " if grounds.why else ""
    who = (
        f"{star.source}: the size of {count} micrograph{'s' if count > 1 else ''} is not known "
        f"({listed(grounds.unknown, 5)}: {what.rstrip('; ') or 'not found'})"
    )
    if "location/center_x_frac" not in fields:
        return [f"{who}; the table has no locations: {remedy}"]
    rows = int((~grounds.shape.all(axis=1)).sum())
    return [f"{who}; {rows} of {len(star)} particles have no location, the others keep theirs: {remedy}"]


def _packed(star: Star, fields: Fields) -> Table:
    """The table, with the types that a `.cs` had from which it came; strings as wide as they must be."""
    types = {name: kind for name, kind, _ in star.fields}
    described = []
    for name, values in fields.items():
        kind = values.dtype.str
        if values.dtype.kind in "SU" and types.get(name, "").lstrip("<>|=")[:1] == values.dtype.kind:
            kind = max((types[name], kind), key=lambda text: np.dtype(text).itemsize)
        described.append((name, kind, values.shape[1:]))
    table = np.zeros(len(star), dtype=described)
    for name, values in fields.items():
        table[name] = values
    return table
