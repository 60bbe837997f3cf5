"""Tables of particles from RELION to CryoSPARC and back: coordinates, optics, CTF, alignments. Images stay in place.

Whatever one form has no place for travels along in columns of its own (`_cryosparc.*` in STAR, `cryobox/*` in `.cs`),
and a converted value gives way to the one it came from wherever converting that again gives what the table holds now.
So there and back gives the same table, and what another program changed in between is kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobox import formats
from cryobox.errors import InputError, MicrographError, OptionError, OutputError
from cryobox.formats.cs_table import Table, as_bytes, as_text, read_table, write_table
from cryobox.formats.csg import read_group, write_group
from cryobox.formats.images import read_header
from cryobox.formats.star_table import encode, read_blocks, write_loop
from cryobox.matching import match_names

__all__ = ["Converted", "convert_particles", "euler_from_pose", "pose_from_euler"]

Floats = NDArray[np.float64]
Texts = list[str]

UID = "_cryosparcUid"
CARRIED = "_cryosparc."  # then the field, with a dot for the slash, and the index of a component
KEPT = "cryobox/star"  # field of a .cs: then the tag of a STAR column
KEPT_OPTICS = "cryobox/optics"
DIGITS = 10  # a float32 in another unit comes back as it was: half a step of it is 3e-8 of its size

_NUMBERED = ("idx", "shape", "class", "split", "exp_group_id", "micrograph_shape")
_LONG = ("uid", "micrograph_uid", "import_sig", "src_uid")
_STRINGS = ("path", "type", "micrograph_path")

# STAR column of the optics table -> field, number by number.
_OPTICS = {
    "_rlnVoltage": "ctf/accel_kv",
    "_rlnSphericalAberration": "ctf/cs_mm",
    "_rlnAmplitudeContrast": "ctf/amp_contrast",
    "_rlnImagePixelSize": "blob/psize_A",
}
# STAR column -> field, and how many of the field's units one of the column's is.
_CTF = {
    "_rlnDefocusU": ("ctf/df1_A", 1.0),
    "_rlnDefocusV": ("ctf/df2_A", 1.0),
    "_rlnDefocusAngle": ("ctf/df_angle_rad", np.pi / 180),
    "_rlnPhaseShift": ("ctf/phase_shift_rad", np.pi / 180),
    "_rlnCtfBfactor": ("ctf/bfactor", 1.0),
    "_rlnCtfScalefactor": ("ctf/scale", 1.0),
}
_ANGLES = ("_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi")
_ORIGINS = ("_rlnOriginXAngst", "_rlnOriginYAngst")
_COORDINATES = ("_rlnCoordinateX", "_rlnCoordinateY")
# Aberrations that RELION writes in other units and bases; they are carried, not converted.
_ABERRATIONS = ("ctf/tilt_A", "ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A")


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
        sides, which a STAR file does not have.
    root : Path, optional
        Where relative paths of a STAR file start; default: the working directory.
    overwrite : bool
        Replace `target`.

    Raises
    ------
    InputError, OptionError, OutputError
    """
    source, target = Path(source), Path(target)
    kinds = (source.suffix.lower(), target.suffix.lower())
    places = (root or Path.cwd()).resolve()
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: is already there; replace it with --overwrite")
    if kinds[0] in (".cs", ".csg") and kinds[1] == ".star":
        table, warnings = read_group(source) if kinds[0] == ".csg" else (read_table(source), ())
        star, more, notes = _star_from_cs(source, table, places)
        _write_star(target, star)
        return Converted(rows=len(table), warnings=(*warnings, *more), notes=notes)
    if kinds[0] == ".star" and kinds[1] == ".cs":
        found = _read_star(source)
        sizes = _micrograph_sizes(found, micrographs, root)
        table, more, notes = _cs_from_star(found, sizes, target.resolve().parent, places)
        try:
            write_table(target, table)
            write_group(target.with_suffix(".csg"), target.name, table, title="Converted particles")
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
        return Converted(rows=len(table), warnings=more, notes=(*notes, f"group: {target.with_suffix('.csg')}"))
    raise OptionError(f"{source} to {target}: one of them must be a .star, the other a .cs (a .csg only as the source)")


# Orientations --------------------------------------------------------------------------------------------------------
# CryoSPARC's pose is a rotation vector v (axis times angle), RELION's are Euler angles. Two public programs that read
# both agree that RELION's matrix (Rz(psi) Ry(tilt) Rz(rot), rotating the frame) is the transpose of exp([v]x): pyem
# (geom.expmap, geom.rot2euler) and cryoDRGN (parse_pose_csparc, R_from_relion).


def _matrix_from_euler(angles: Floats) -> Floats:
    (ca, cb, cg), (sa, sb, sg) = np.cos(np.radians(angles)).T, np.sin(np.radians(angles)).T
    rows = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    matrix: Floats = np.moveaxis(np.array(rows), -1, 0)
    return matrix


def _quaternion_from_pose(pose: Floats) -> Floats:
    angle = np.linalg.norm(pose, axis=1, keepdims=True)
    half = np.where(angle > 1e-12, np.sin(angle / 2) / np.where(angle > 1e-12, angle, 1.0), 0.5)
    quaternion: Floats = np.hstack([np.cos(angle / 2), half * pose])
    return quaternion


def euler_from_pose(pose: Floats) -> Floats:
    """RELION's rot, tilt and psi in degrees, of CryoSPARC's rotation vectors, shape (n, 3) in radians.

    Tilt lies between 0 and 180; where it is 0 or 180, rot is 0 and psi has the whole turn.
    """
    w, x, y, z = _quaternion_from_pose(np.asarray(pose, np.float64)).T
    # Entries of exp([v]x)^T; its third column and row give the angles.
    r02, r12 = 2 * (x * z - w * y), 2 * (y * z + w * x)
    r20, r21, r22 = 2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)
    r00, r10 = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z)
    sine = np.hypot(r02, r12)
    general = sine > 1e-12
    rot = np.where(general, np.arctan2(r21, r20), 0.0)
    tilt = np.arctan2(sine, r22)
    up = r22 > 0
    psi = np.where(general, np.arctan2(r12, -r02), np.where(up, np.arctan2(-r10, r00), np.arctan2(r10, -r00)))
    angles: Floats = np.column_stack([rot, np.where(general, tilt, np.where(up, 0.0, np.pi)), psi])
    return np.degrees(angles)


def pose_from_euler(angles: Floats) -> Floats:
    """CryoSPARC's rotation vectors in radians, at most π long, of RELION's rot, tilt, psi, shape (n, 3) in degrees."""
    matrix = np.swapaxes(_matrix_from_euler(np.asarray(angles, np.float64)), 1, 2)
    # The quaternion's largest component is found first: no difference of nearly equal numbers is divided by (Shepperd).
    trace = np.trace(matrix, axis1=1, axis2=2)
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    squares = np.column_stack([1 + trace, 1 - trace[:, None] + 2 * diagonal])  # four times each component's square
    skew = np.column_stack(
        [
            matrix[:, 2, 1] - matrix[:, 1, 2],
            matrix[:, 0, 2] - matrix[:, 2, 0],
            matrix[:, 1, 0] - matrix[:, 0, 1],
        ]
    )
    products = np.zeros((len(matrix), 4, 4))  # four times the product of any two components
    products[:, 0, 1:] = products[:, 1:, 0] = skew
    products[:, 1:, 1:] = matrix + np.swapaxes(matrix, 1, 2)
    products[:, range(4), range(4)] = squares
    largest = np.argmax(squares, axis=1)
    row = products[np.arange(len(matrix)), largest]
    quaternion = row / np.linalg.norm(row, axis=1, keepdims=True)
    quaternion *= np.where(quaternion[:, :1] < 0, -1.0, 1.0)
    sine = np.linalg.norm(quaternion[:, 1:], axis=1)
    angle = 2 * np.arctan2(sine, quaternion[:, 0])
    factor = np.where(sine > 1e-12, angle / np.where(sine > 1e-12, sine, 1.0), 2.0)
    found: Floats = quaternion[:, 1:] * factor[:, None]
    return found


# STAR in and out -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Star:
    """A table of particles and its optics, as text; `fields` describes a `.cs` that it came from."""

    source: str
    columns: dict[str, Texts]
    optics: dict[str, Texts]
    fields: tuple[tuple[str, str, str], ...] = ()  # name, type, shape

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def numbers(self, tag: str) -> Floats:
        try:
            return np.array(self.columns[tag], np.float64)
        except ValueError as error:
            raise InputError(f"{self.source}: {tag} holds what is no number: {error}") from error

    def has(self, *tags: str) -> bool:
        return all(tag in self.columns for tag in tags)


def _read_star(path: Path) -> _Star:
    blocks = read_blocks(path)
    if "optics" not in blocks or "particles" not in blocks:
        raise InputError(
            f"{path}: has no data_optics and data_particles; tables of RELION 3.0 and of picks are first made into "
            f"such by relion_convert_star, or by extracting"
        )
    optics, table = blocks["optics"].table(), blocks["particles"].table()
    optics.require("_rlnOpticsGroup", "_rlnImagePixelSize", "_rlnImageSize")
    table.require("_rlnImageName", "_rlnOpticsGroup")
    fields: list[tuple[str, str, str]] = []
    if "cryosparc" in blocks:
        described = blocks["cryosparc"].table()
        tags = ("_cryosparcField", "_cryosparcType", "_cryosparcShape")
        described.require(*tags)
        names, types, shapes = (described.texts(tag) for tag in tags)
        fields = list(zip(names, types, shapes, strict=True))
    return _Star(
        source=str(path),
        columns={tag: table.texts(tag) for tag in table.tags},
        optics={tag: optics.texts(tag) for tag in optics.tags},
        fields=tuple(fields),
    )


def _write_star(path: Path, star: _Star) -> None:
    try:
        with open(path, "wb") as file:
            for name, columns in (
                ("optics", star.optics),
                ("particles", star.columns),
                ("cryosparc", _described(star)),
            ):
                if columns:
                    file.write(b"\n# version 50001\n")
                    n = len(next(iter(columns.values())))
                    write_loop(file, name, list(columns), [_piece(texts) for texts in columns.values()], n)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _described(star: _Star) -> dict[str, Texts]:
    if not star.fields:
        return {}
    names, types, shapes = (list(texts) for texts in zip(*star.fields, strict=True))
    return {"_cryosparcField": names, "_cryosparcType": types, "_cryosparcShape": shapes}


def _piece(texts: Texts) -> Callable[[slice], list[bytes]]:
    return lambda part: [encode(text) for text in texts[part]]


def _text(values: Any) -> Texts:
    """Numbers that come back as the float32 they were, in few digits."""
    return [f"{value:.{DIGITS}g}" for value in np.asarray(values, np.float64).tolist()]


def _exact(values: NDArray[Any]) -> Texts:
    """Values of a column of a `.cs`, as few digits as give them back."""
    if values.dtype.kind in "SU":
        return [as_text(raw) for raw in values.tolist()]
    found: Texts = values.astype("U32").tolist()
    return found


# From CryoSPARC ------------------------------------------------------------------------------------------------------


def _star_from_cs(path: Path, table: Table, base: Path) -> tuple[_Star, tuple[str, ...], tuple[str, ...]]:
    names = table.dtype.names or ()
    needed = ("uid", "blob/path", "blob/idx", "blob/psize_A", "blob/shape")
    if missing := [field for field in needed if field not in names]:
        raise InputError(
            f"{path}: has no {', '.join(missing)}; images are needed: the .cs or .csg of extracted particles"
        )
    if len(table) and (table["blob/shape"][:, 0] != table["blob/shape"][:, 1]).any():
        raise InputError(f"{path}: blob/shape is not square; RELION's particles are")
    lead = _leading(names)
    warnings, notes = _said_of_cs(table, names, lead)
    made = _star_columns(table, names, lead, path.resolve().parent, base)
    optics, made["_rlnOpticsGroup"] = _optics_of_cs(table, names)
    made[UID] = _exact(table["uid"])
    rebuilt = _rebuilt(names, lead)
    for field in names:
        if field not in rebuilt and not field.startswith("cryobox/") and _is_carried(table, field):
            made |= _carried_columns(field, table[field])
    fields = [
        (field, table.dtype[field].base.str, "x".join(map(str, table.dtype[field].shape)) or "-")
        for field in names
        if not field.startswith("cryobox/")
    ]
    star = _Star(source=str(path), columns=made, optics=optics, fields=tuple(fields))
    kept = {field.split("/", 2)[2]: field for field in names if field.startswith(KEPT + "/")}
    if kept:
        star = _with_kept(star, table, kept, path.resolve().parent, base)
    return star, warnings, notes


def _leading(names: Sequence[str]) -> str:
    """The alignment that becomes RELION's origins and angles: 3D before 2D; "" where there is none."""
    return next((a for a in ("alignments3D", "alignments2D") if {f"{a}/shift", f"{a}/psize_A"} <= set(names)), "")


def _rebuilt(names: Sequence[str], lead: str) -> set[str]:
    """Fields that a STAR file's own columns give back exactly."""
    found = {"uid", "blob/path", "blob/idx", "blob/shape", "location/center_x_frac", "location/center_y_frac"}
    found |= {"location/micrograph_path", *_OPTICS.values(), *(field for field, _ in _CTF.values())}
    if lead:
        found |= {f"{lead}/shift", f"{lead}/class", f"{lead}/split"}
    if lead == "alignments2D":
        found.add("alignments2D/pose")
    if "location/micrograph_shape" not in names:
        found -= {"location/center_x_frac", "location/center_y_frac"}
    # A pixel size or voltage is one text for each optics group, so that it comes back whatever it is.
    return found


def _is_carried(table: Table, field: str) -> bool:
    kind = table.dtype[field].base.kind
    return kind in "fiuSU" and len(table.dtype[field].shape) <= 2


def _carried_columns(field: str, values: NDArray[Any]) -> dict[str, Texts]:
    tag = CARRIED + field.replace("/", ".")
    if values.ndim == 1:
        return {tag: _exact(values)}
    flat = values.reshape(len(values), -1)
    return {f"{tag}.{i}": _exact(flat[:, i]) for i in range(flat.shape[1])}


def _star_columns(table: Table, names: Sequence[str], lead: str, folder: Path, base: Path) -> dict[str, Texts]:
    stacks = _by_distinct(table["blob/path"], lambda raw: _relion_stack(_from_base(raw, folder, base)))
    made: dict[str, Texts] = {}
    if "location/center_x_frac" in names and "location/micrograph_shape" in names:
        for axis, tag in enumerate(_COORDINATES):
            fraction = table[f"location/center_{'xy'[axis]}_frac"].astype(np.float64)
            made[tag] = _text(fraction * table["location/micrograph_shape"][:, 1 - axis])
    images = zip((table["blob/idx"].astype(np.int64) + 1).tolist(), stacks, strict=True)
    made["_rlnImageName"] = [f"{number:08d}@{stack}" for number, stack in images]
    if "location/micrograph_path" in names:
        made["_rlnMicrographName"] = _by_distinct(
            table["location/micrograph_path"], lambda raw: _from_base(raw, folder, base)
        )
    for tag, (field, unit) in _CTF.items():
        if field in names:
            made[tag] = _text(table[field].astype(np.float64) / unit)
    if lead:
        shift = table[f"{lead}/shift"].astype(np.float64) * table[f"{lead}/psize_A"].astype(np.float64)[:, None]
        made |= {tag: _text(shift[:, axis]) for axis, tag in enumerate(_ORIGINS)}
        if f"{lead}/pose" in names:
            pose = table[f"{lead}/pose"].astype(np.float64)
            if lead == "alignments3D":
                made |= {tag: _text(column) for tag, column in zip(_ANGLES, euler_from_pose(pose).T, strict=True)}
            else:
                made["_rlnAnglePsi"] = _text(np.degrees(pose))
        for part, tag in (("class", "_rlnClassNumber"), ("split", "_rlnRandomSubset")):
            if f"{lead}/{part}" in names:
                made[tag] = _exact(table[f"{lead}/{part}"].astype(np.int64) + 1)
    # A path that is not relative to the table says so in a column: the way back must not make it so.
    for field in ("blob/path", "location/micrograph_path"):
        if field in names and not all(as_text(raw).startswith(">") for raw in np.unique(table[field]).tolist()):
            made |= _carried_columns(field, table[field])
    return made


def _by_distinct(column: NDArray[Any], function: Callable[[str], str]) -> Texts:
    distinct, inverse = np.unique(column, return_inverse=True)
    texts = [function(as_text(raw)) for raw in distinct.tolist()]
    return [texts[i] for i in inverse.ravel().tolist()]


def _from_base(raw: str, folder: Path, base: Path) -> str:
    """A path of a `.cs` as a STAR file names it: `>` starts at the table's folder, others stay as they are."""
    if not raw.startswith(">"):
        return raw
    whole = Path(os.path.normpath(folder / raw[1:]))
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else whole.as_posix()


def _relion_stack(name: str) -> str:
    """RELION takes `.mrc` for a volume unless the name says otherwise."""
    return name if name.endswith(".mrcs") else f"{name}:mrcs"


def _optics_of_cs(table: Table, names: Sequence[str]) -> tuple[dict[str, Texts], Texts]:
    """data_optics: one group for each set of values that differ, in the order of exp_group_id; and each row's group."""
    group_id = next((f for f in ("ctf/exp_group_id", "location/exp_group_id") if f in names), None)
    fields = {tag: field for tag, field in _OPTICS.items() if field in names}
    columns = [table[group_id].astype(np.float64) if group_id else np.zeros(len(table))]
    columns += [table[field].astype(np.float64) for field in fields.values()]
    columns.append(table["blob/shape"][:, 0].astype(np.float64))
    _, first, inverse = np.unique(np.column_stack(columns), axis=0, return_index=True, return_inverse=True)
    n = len(first)
    number = [int(columns[0][row]) for row in first]
    optics: dict[str, Texts] = {
        "_rlnOpticsGroupName": [f"exp_group_{g}" if number.count(g) == 1 else f"exp_group_{g}_{i}"
                                for i, g in enumerate(number, 1)],
        "_rlnOpticsGroup": [str(i + 1) for i in range(n)],
    }  # fmt: skip
    optics |= {tag: _exact(table[field][first]) for tag, field in fields.items()}
    optics["_rlnImageSize"] = [str(int(side)) for side in table["blob/shape"][first, 0]]
    optics["_rlnImageDimensionality"] = ["2"] * n
    optics["_rlnCtfDataAreCtfPremultiplied"] = ["0"] * n
    return optics, [str(i + 1) for i in inverse.ravel().tolist()]


def _said_of_cs(table: Table, names: Sequence[str], lead: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    warnings, notes = [], []
    if "blob/sign" in names and (table["blob/sign"] < 0).any():
        warnings.append(
            "the images are dark on light (blob/sign -1), and RELION expects white particles: invert them "
            "(relion_image_handler --multiply_constant -1), or extract again with --invert"
        )
    if any(field in names and np.abs(table[field]).max(initial=0.0) > 0 for field in _ABERRATIONS):
        warnings.append("beam tilt, trefoil and tetrafoil are not converted: refine them again in RELION")
    if "ctf/anisomag" in names and np.abs(table["ctf/anisomag"]).max(initial=0.0) > 0:
        warnings.append("anisotropic magnification is not converted")
    if "location/center_x_frac" not in names:
        warnings.append("the table has no locations: give the job's .csg, which joins its passthrough table")
    if lead == "alignments3D":
        notes.append("shifts and orientations are those of alignments3D")
    elif lead:
        notes.append("shifts and in-plane angles are those of alignments2D")
    return tuple(warnings), tuple(notes)


# From RELION ---------------------------------------------------------------------------------------------------------


def _cs_from_star(
    star: _Star, sizes: _Sizes, folder: Path, base: Path
) -> tuple[Table, tuple[str, ...], tuple[str, ...]]:
    """The `.cs` of a STAR file; a table that came from CryoSPARC has the columns, types and order that it had."""
    made = _fields_of_star(star, sizes, folder, base)
    carried = _carried_fields(star)
    for field, values in carried.items():
        if _still_true(star, field, values, made, folder, base):
            made[field] = values
    order = [name for name, _, _ in star.fields if name in made] or list(made)
    if not star.fields and not any(tag.startswith(CARRIED) for tag in star.columns):
        kept = {f"{KEPT}/{tag}": as_bytes(texts) for tag, texts in star.columns.items()}
        group = _group_of_rows(star)
        kept |= {f"{KEPT_OPTICS}/{tag}": as_bytes([texts[g] for g in group]) for tag, texts in star.optics.items()}
        made |= kept
        order += list(kept)
    types = {name: kind for name, kind, _ in star.fields}
    described = []
    for name in order:
        values = made[name]
        kind = types.get(name, values.dtype.str)
        if values.dtype.kind in "SU":  # as wide as it must be, at least as wide as it was
            kind = max((kind, values.dtype.str), key=lambda text: np.dtype(text).itemsize)
        described.append((name, kind, values.shape[1:]))
    table = np.zeros(len(star), dtype=described)
    for name in order:
        table[name] = made[name]
    warnings = [] if "location/center_x_frac" in made else [sizes.why]
    outside = [raw for raw in np.unique(made["blob/path"]).tolist() if not as_text(raw).startswith(">")]
    notes = []
    if outside and "blob/path" not in carried:
        notes.append(f"stacks lie outside the table's folder, so their paths are absolute: {as_text(outside[0])}")
    if UID not in star.columns:
        notes.append("the table had no uids: each is a hash of the image's name")
    return table, tuple(warnings), tuple(notes)


def _fields_of_star(star: _Star, sizes: _Sizes, folder: Path, base: Path) -> dict[str, NDArray[Any]]:
    group = _group_of_rows(star)
    n = len(star)
    slot, names = _images(star)
    made: dict[str, NDArray[Any]] = {"uid": _uids(star)}

    def of_group(tag: str) -> NDArray[np.float32] | None:
        if tag in star.optics:
            return np.array([_float(star, tag, text) for text in star.optics[tag]], np.float32)[group]
        return star.numbers(tag).astype(np.float32) if star.has(tag) else None

    side = np.array([int(_float(star, "_rlnImageSize", text)) for text in star.optics["_rlnImageSize"]], np.uint32)[
        group
    ]
    pixel = of_group("_rlnImagePixelSize")
    assert pixel is not None
    made["blob/path"] = as_bytes(_each(names, lambda name: _to_table(name.removesuffix(":mrcs"), folder, base)))
    made["blob/idx"] = slot.astype(np.uint32)
    made["blob/shape"] = np.column_stack([side, side])
    made["blob/psize_A"] = pixel
    made["blob/sign"] = np.full(n, 1.0, np.float32)  # RELION's particles are white
    made["blob/import_sig"] = np.zeros(n, np.uint64)
    if star.has(*_COORDINATES, "_rlnMicrographName") and sizes.shape is not None:
        made |= _locations(star, sizes, folder, base)
    for tag, field in _OPTICS.items():
        values = of_group(tag)
        if values is not None and field not in made:
            made[field] = values
    if star.has("_rlnDefocusU"):
        made["ctf/type"] = as_bytes(["imported"] * n)
        made["ctf/exp_group_id"] = (group + 1).astype(np.uint32)
    for tag, (field, unit) in _CTF.items():
        if star.has(tag):
            made[field] = (star.numbers(tag) * unit).astype(np.float32)
    return made | _alignment_fields(star, pixel)


def _alignment_fields(star: _Star, pixel: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    carried = [tag.split(".")[1] for tag in star.columns if tag.startswith(CARRIED + "alignments")]
    in_3d = star.has(*_ANGLES) and ("alignments3D" in carried or not carried)
    if not in_3d and not star.has(*_ORIGINS):
        return {}
    lead = "alignments3D" if in_3d else "alignments2D"
    tag = f"{CARRIED}{lead}.psize_A"
    unit = star.numbers(tag).astype(np.float32) if star.has(tag) else pixel
    zero = np.zeros(len(star))
    angstrom = np.column_stack([star.numbers(t) if star.has(t) else zero for t in _ORIGINS])
    made: dict[str, NDArray[Any]] = {
        f"{lead}/shift": (angstrom / unit.astype(np.float64)[:, None]).astype(np.float32),
        f"{lead}/psize_A": unit,
    }
    if in_3d:
        angles = np.column_stack([star.numbers(t) for t in _ANGLES])
        made[f"{lead}/pose"] = pose_from_euler(angles).astype(np.float32)
    elif star.has("_rlnAnglePsi"):
        made[f"{lead}/pose"] = np.radians(star.numbers("_rlnAnglePsi")).astype(np.float32)
    else:
        made[f"{lead}/pose"] = zero.astype(np.float32)
    for part, column in (("class", "_rlnClassNumber"), ("split", "_rlnRandomSubset")):
        if star.has(column):
            made[f"{lead}/{part}"] = np.maximum(star.numbers(column) - 1, 0).astype(np.uint32)
    return made


def _locations(star: _Star, sizes: _Sizes, folder: Path, base: Path) -> dict[str, NDArray[Any]]:
    assert sizes.shape is not None
    n = len(star)
    made: dict[str, NDArray[Any]] = {
        "location/micrograph_path": as_bytes(
            _each(star.columns["_rlnMicrographName"], lambda name: _to_table(name, folder, base))
        ),
        "location/micrograph_shape": sizes.shape.astype(np.uint32),
    }
    if sizes.pixel_size is not None:
        made["location/micrograph_psize_A"] = sizes.pixel_size.astype(np.float32)
    if sizes.uid is not None:
        made["location/micrograph_uid"] = sizes.uid
    for axis, tag in enumerate(_COORDINATES):
        with np.errstate(divide="ignore", invalid="ignore"):
            fraction = star.numbers(tag) / sizes.shape[:, 1 - axis]
        made[f"location/center_{'xy'[axis]}_frac"] = fraction.astype(np.float32)
    made["location/exp_group_id"] = np.zeros(n, np.uint32) + (_group_of_rows(star) + 1).astype(np.uint32)
    return made


def _group_of_rows(star: _Star) -> NDArray[np.intp]:
    """Row of data_optics of each particle."""
    place = {text: i for i, text in enumerate(star.optics["_rlnOpticsGroup"])}
    try:
        return np.array([place[text] for text in star.columns["_rlnOpticsGroup"]], np.intp)
    except KeyError as error:
        raise InputError(f"{star.source}: optics group {error} of a particle is not in data_optics") from None


def _images(star: _Star) -> tuple[NDArray[np.int64], Texts]:
    slots, names = [], []
    for row, text in enumerate(star.columns["_rlnImageName"]):
        number, at, name = text.partition("@")
        if not (at and number.isdigit() and int(number) > 0):
            raise InputError(f"{star.source}: row {row + 1}: {text!r} is not an image of a stack (000001@stack.mrcs)")
        slots.append(int(number) - 1)
        names.append(name)
    return np.array(slots, np.int64), names


def _uids(star: _Star) -> NDArray[np.uint64]:
    from hashlib import blake2b

    if star.has(UID):
        try:
            return np.array([int(text) for text in star.columns[UID]], np.uint64)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{star.source}: {UID} holds what is no 64-bit number: {error}") from error
    seen: dict[str, int] = {}
    found = []
    for name in star.columns["_rlnImageName"]:
        seen[name] = seen.get(name, 0) + 1  # copies of one image are rows of their own
        digest = blake2b(f"{name} {seen[name]}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
        found.append(int.from_bytes(digest, "little"))
    return np.array(found, np.uint64)


def _float(star: _Star, tag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{star.source}: data_optics: {tag} is {text!r}, expected a number") from None


def _each(texts: Texts, function: Callable[[str], str]) -> Texts:
    known = {text: function(text) for text in dict.fromkeys(texts)}
    return [known[text] for text in texts]


def _to_table(name: str, folder: Path, base: Path) -> str:
    """A path of a STAR file as a `.cs` in `folder` names it: from there where it lies inside, else whole."""
    whole = Path(os.path.normpath(base / name))
    return f">{whole.relative_to(folder).as_posix()}" if whole.is_relative_to(folder) else whole.as_posix()


def _carried_fields(star: _Star) -> dict[str, NDArray[Any]]:
    """Fields that travelled in `_cryosparc.*` columns, with the types they had, or those that CryoSPARC gives them."""
    described = {name: (kind, shape) for name, kind, shape in star.fields}
    parts: dict[str, dict[int, Texts]] = {}
    for tag, texts in star.columns.items():
        if tag.startswith(CARRIED):
            group, _, rest = tag[len(CARRIED) :].partition(".")
            name, dot, index = rest.rpartition(".")
            component = bool(dot) and index.isdigit()
            field = f"{group}/{name if component else rest}"
            parts.setdefault(field, {})[int(index) if component else -1] = texts
    found: dict[str, NDArray[Any]] = {}
    for field, components in parts.items():
        kind, shape = described.get(field, (_usual_type(field), ""))
        columns = [_typed(star, field, components[i], kind) for i in sorted(components)]
        if -1 in components:
            found[field] = columns[0]
        else:
            extent = tuple(map(int, shape.split("x"))) if shape not in ("", "-") else (len(columns),)
            found[field] = np.stack(columns, axis=1).reshape(len(star), *extent)
    return found


def _usual_type(field: str) -> str:
    last = field.rsplit("/", 1)[1]
    return "S" if last in _STRINGS else "<u8" if last in _LONG else "<u4" if last in _NUMBERED else "<f4"


def _typed(star: _Star, field: str, texts: Texts, kind: str) -> NDArray[Any]:
    if kind.lstrip("<>|=")[:1] in "SU":
        return as_bytes(texts)
    try:
        dtype = np.dtype(kind)
        return np.array([int(text) for text in texts] if dtype.kind in "iu" else texts, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{star.source}: the column that carries {field} is damaged: {error}") from error


def _still_true(
    star: _Star, field: str, values: NDArray[Any], made: Mapping[str, NDArray[Any]], folder: Path, base: Path
) -> bool:
    """Whether a carried value still says what the STAR file's own columns say; where these have none it does."""
    if field == "alignments3D/pose" and star.has(*_ANGLES):
        now = _matrix_from_euler(np.column_stack([star.numbers(tag) for tag in _ANGLES]))
        then = _matrix_from_euler(euler_from_pose(values.astype(np.float64)))
        changed = np.abs(now - then).max(axis=(1, 2)) > SAME_MATRIX
        values[changed] = made[field][changed]
        return True
    if field in ("blob/path", "location/micrograph_path"):
        names = _images(star)[1] if field == "blob/path" else star.columns.get("_rlnMicrographName", [])
        was = [_from_base(as_text(raw), folder, base) for raw in values.tolist()]
        was = [_relion_stack(name) for name in was] if field == "blob/path" else was
        return was == names
    return True


SAME_MATRIX = 1e-7  # angles in six decimals give entries of a matrix to 2e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What a STAR file does not say of the micrograph of each particle; `why`: why it is not known."""

    shape: NDArray[np.int64] | None = None
    pixel_size: Floats | None = None
    uid: NDArray[np.uint64] | None = None
    why: str = ""


def _micrograph_sizes(star: _Star, micrographs: str | None, root: Path | None) -> _Sizes:
    tags = [f"{CARRIED}location.micrograph_shape.{axis}" for axis in (0, 1)]
    if micrographs is None and star.has(*tags):
        return _Sizes(shape=np.column_stack([star.numbers(tag).astype(np.int64) for tag in tags]))
    if not star.has("_rlnMicrographName", *_COORDINATES):
        return _Sizes(why=f"{star.source}: has no coordinates or no micrograph names: the table has no locations")
    names = list(dict.fromkeys(star.columns["_rlnMicrographName"]))
    place = {name: i for i, name in enumerate(names)}
    row = np.array([place[name] for name in star.columns["_rlnMicrographName"]], np.intp)
    shape = np.zeros((len(names), 2), np.int64)
    pixel = np.full(len(names), np.nan)
    if micrographs is None:
        paths = [os.path.join(root or "", name) for name in names]
        uid = None
    else:
        table = formats.read_micrographs(micrographs, root=root)
        match, _ = match_names(tuple(names), table.names, picks_source=star.source, micrographs_source=table.source)
        paths = [table.paths[m] if m >= 0 else "" for m in match.tolist()]
        pixel = np.where(match >= 0, table.pixel_size[match], np.nan)
        shape = np.where((match >= 0)[:, None], table.shape[match], 0)
        uid = None if table.uids is None else np.where(match >= 0, table.uids[match], np.uint64(0))
    for i, path in enumerate(paths):
        if shape[i].all():
            continue
        try:
            header = read_header(path)
        except MicrographError as error:
            why = f"{error}; without the micrographs' sizes the table has no locations: give --micrographs"
            return _Sizes(why=why)
        shape[i] = header.shape
        pixel[i] = header.pixel_size if np.isnan(pixel[i]) else pixel[i]
    return _Sizes(
        shape=shape[row],
        pixel_size=None if np.isnan(pixel).any() else pixel[row],
        uid=None if uid is None else uid[row],
    )


# There and back ------------------------------------------------------------------------------------------------------

# STAR column -> the fields that it decides.
_DECIDES: dict[str, tuple[str, ...]] = {
    "_rlnImageName": ("blob/path", "blob/idx"),
    "_rlnMicrographName": ("location/micrograph_path",),
    "_rlnCoordinateX": ("location/center_x_frac",),
    "_rlnCoordinateY": ("location/center_y_frac",),
    **{tag: (field,) for tag, (field, _) in _CTF.items()},
    **dict.fromkeys(_ORIGINS, ("alignments3D/shift", "alignments2D/shift")),
    **dict.fromkeys(_ANGLES, ("alignments3D/pose", "alignments2D/pose")),
    "_rlnClassNumber": ("alignments3D/class", "alignments2D/class"),
    "_rlnRandomSubset": ("alignments3D/split", "alignments2D/split"),
}


def _with_kept(star: _Star, table: Table, kept: Mapping[str, str], folder: Path, base: Path) -> _Star:
    """Put the texts of the STAR file that a `.cs` came from where converting them gives what the `.cs` has now."""
    texts = {tag: _exact(table[field]) for tag, field in kept.items()}
    optics = {
        field.split("/", 2)[2]: _exact(table[field])
        for field in table.dtype.names or ()
        if field.startswith(KEPT_OPTICS + "/")
    }
    if "_rlnOpticsGroup" not in texts or "_rlnImageSize" not in optics:
        return star
    groups = sorted(dict.fromkeys(texts["_rlnOpticsGroup"]), key=lambda text: (len(text), text))
    first = [texts["_rlnOpticsGroup"].index(group) for group in groups]
    old = _Star(source=star.source, columns=texts, optics={tag: [c[i] for i in first] for tag, c in optics.items()})
    names = table.dtype.names or ()
    sizes = _Sizes()
    if "location/micrograph_shape" in names:
        sizes = _Sizes(shape=table["location/micrograph_shape"].astype(np.int64))
    again = _fields_of_star(old, sizes, folder, base)

    def same(field: str) -> NDArray[np.bool_]:
        if field not in names or field not in again:
            return np.ones(len(table), np.bool_)
        equal = table[field] == again[field]
        flat: NDArray[np.bool_] = equal.reshape(len(table), -1).all(axis=1) if equal.ndim > 1 else equal
        return flat

    columns: dict[str, Texts] = {}
    for tag, column in texts.items():
        keep = np.ones(len(table), np.bool_)
        for field in _DECIDES.get(tag, ()):
            keep &= same(field)
        new = star.columns.get(tag, column)
        columns[tag] = column if keep.all() else [c if k else n for c, k, n in zip(column, keep, new, strict=True)]
    columns |= {tag: column for tag, column in star.columns.items()
                if tag not in columns and tag in _DECIDES and not _came_from(tag, old, again)}  # fmt: skip
    if all(same(field).all() for field in (*_OPTICS.values(), "blob/shape")):
        star_optics = old.optics
    else:
        star_optics = star.optics
        columns["_rlnOpticsGroup"] = star.columns["_rlnOpticsGroup"]
    if UID not in texts:
        columns[UID] = star.columns[UID]
    return _Star(source=star.source, columns=columns, optics=star_optics)


def _came_from(tag: str, old: _Star, again: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a column that the STAR file had not is only what its conversion filled in (a pose of zeros, ...)."""
    return any(field in again for field in _DECIDES[tag]) and tag not in old.columns
