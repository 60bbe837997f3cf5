"""What a user may name as picks or micrographs: which format a path is in, and what is read of it."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryobox.errors import InputError, OptionError
from cryobox.formats.files_read import note
from cryobox.paths import Start

if TYPE_CHECKING:
    from cryobox.groups import Helix, Reading
    from cryobox.matching import Strip
    from cryobox.micrograph import Micrographs
    from cryobox.options import Recipe
    from cryobox.particles import Particles

__all__ = [
    "COORDINATE_SUFFIXES",
    "IMAGE_SUFFIXES",
    "describe",
    "micrographs_of",
    "plain_stems",
    "read_coordinate_file",
    "read_micrographs",
    "read_particles",
    "read_several",
    "strip_of",
]

IMAGE_SUFFIXES = (".mrc", ".map", ".mrc.gz", ".mrc.bz2", ".tif", ".tiff")
_STACK_SUFFIXES = (".mrcs",)  # one micrograph each if a user names them, but never found in a folder by chance
_TABLE_SUFFIXES = (".star", ".cs", ".csg")
_TEXT_SUFFIXES = (".txt", ".csv", ".tsv")
_COORD_SUFFIXES = (".coord", ".coords")
_XMIPP_SUFFIXES = (".pos", ".xmd")
_EMAN2_SUFFIX = ".json"
COORDINATE_SUFFIXES = (
    ".star",
    ".box",
    ".cbox",
    *_TEXT_SUFFIXES,
    _EMAN2_SUFFIX,
    *_XMIPP_SUFFIXES,
    *_COORD_SUFFIXES,
)
_PACKED_SUFFIXES = (".gz", ".bz2")


def read_particles(
    path: str | Path,
    *,
    micrographs: Micrographs | None = None,
    recipe: Recipe,
    start: Start | None = None,
    ready: Callable[[str], bool] | None = None,
) -> Particles:
    """Read the picks that a user names.

    Parameters
    ----------
    path : path
        `.star`, `.cs`, `.csg`, `.box`, `.cbox`, `.txt`, `.csv`, `.tsv`, `.json` (EMAN2), `.pos`, `.xmd` (Xmipp),
        `.coord` or `.coords`; a folder of coordinate files, one for each micrograph, or of a table or list of them; or
        RELION 3.1's `coords_suffix_*.star` in such a folder.
    micrographs : Micrographs, optional
        Whose names say what belongs to the micrograph in the name of a coordinate file.
    recipe : Recipe
        `coordinate_suffix` and what is stripped off names are used.
    start : Start, optional
        Where relative names in tables are looked for; by default from the working directory.
    ready : callable, optional
        Which files of a folder may be read now.

    Raises
    ------
    InputError
        If there is no such file, or it cannot be used.
    OptionError
        If there is a suffix for coordinate files, and the picks are a table.
    """
    (particles,) = read_several([path], micrographs=micrographs, recipe=recipe, start=start, ready=ready)
    return particles


def read_several(
    paths: Sequence[str | Path],
    *,
    micrographs: Micrographs | None = None,
    recipe: Recipe,
    start: Start | None = None,
    ready: Callable[[str], bool] | None = None,
) -> list[Particles]:
    """Read several tables of picks that a user names; coordinate files of single micrographs become one.

    Parameters and errors are those of `read_particles`.
    """
    from dataclasses import replace

    from cryobox.formats.joining import join_particles
    from cryobox.formats.star import warn_of_blank

    start = start or Start.here()
    if len(paths) > 1:
        _check_distinct_paths(paths)
    found: list[Particles] = []
    files: list[tuple[int, Path]] = []  # tables that belong to one micrograph each, called as the file
    by_name = False
    for path in map(Path, paths):
        if os.path.isdir(path) or (path.suffix.lower() == ".star" and _suffix_of_job(path) is not None):
            particles, named_by_files = _read_folder(path, micrographs, recipe, start, ready)
            by_name |= named_by_files
        else:
            particles = _read_table(path, start, recipe.helix)
            if particles.micrograph_names == (path.stem,) and particles.family != "cs":
                files.append((len(found), path))
            by_name |= bool(files) or not len(particles)
        found.append(particles)
    if recipe.coordinate_suffix is not None and not by_name:
        raise OptionError(
            f"{os.fspath(paths[0])}: says itself which micrographs its picks lie on, so --coord-suffix "
            f"{recipe.coordinate_suffix} cannot apply; leave it out (names that differ: --strip-suffix, --strip-prefix)"
        )
    if not files:
        return found
    source = str(files[0][1]) if len(files) == 1 else f"{files[0][1]} and {len(files) - 1} more"
    names, warnings = _micrograph_names(source, [path for _, path in files], None, micrographs, recipe)
    for (at, _), name in zip(files, names, strict=True):
        found[at] = replace(found[at], micrograph_names=(name,))
    first = files[0][0]
    own = [found[at] for at, _ in files]
    joined = join_particles([one for one in own if len(one)] or own[:1])  # what an empty file lacks, no row lacks
    empty = [text for one in own if not len(one) and one is not joined for text in one.warnings]
    blank = warn_of_blank(source, [path for _, path in files if path.suffix.lower() == ".star"])
    found[first] = replace(joined, warnings=(*joined.warnings, *empty, *blank, *warnings))
    gone = {at for at, _ in files[1:]}
    return [particles for at, particles in enumerate(found) if at not in gone]


def _read_table(path: Path, start: Start, helix: Helix | None = None) -> Particles:
    """Read one file; picks that say no micrograph belong to one, called as the file is."""
    _check_exists(path, "picks")
    note(path)
    kind = path.suffix.lower()
    if kind in (".cs", ".csg"):
        from cryobox.formats import cs

        return cs.read_particles(path)
    if kind == ".star":
        from cryobox.formats import star

        return star.read_particles(path, start=start, helix=helix)
    if kind in _TEXT_SUFFIXES and not (helix is not None and _has_helix_lines(path)):
        from cryobox.formats import csv

        return csv.read_particles(path)
    if kind in _XMIPP_SUFFIXES and not (helix is not None and _has_helix_lines(path)):
        from cryobox.formats import csv, xmipp

        y, x, score, names = xmipp.read_xmipp(path)
        if names is not None:
            return csv.plain_particles(path, y, x, score, names)
    if kind in COORDINATE_SUFFIXES:
        return _join(str(path), [path.stem], [path], (), helix=helix)
    if _is_image(str(path), (*IMAGE_SUFFIXES, *_STACK_SUFFIXES)):
        raise InputError(f"{path}: is an image, expected a file or folder of picks")
    hint = "; unpack it first: tables are not read compressed" if kind in _PACKED_SUFFIXES else ""
    raise InputError(
        f"{path}: not a known type of picks; expected {', '.join((*_TABLE_SUFFIXES, *COORDINATE_SUFFIXES[1:]))} "
        f"or a folder of them{hint}"
    )


def read_coordinate_file(
    path: str | Path,
    *,
    owner: str | None = None,
    known: frozenset[str] = frozenset(),
    strip: Strip | None = None,
    helix: Helix | None = None,
) -> tuple[Any, Any, Any, Any]:
    """Read the picks of one micrograph, whatever the type.

    Parameters
    ----------
    path : path
    owner : str, optional
        The micrograph that they belong to by the name of the file, or by a list.
    known : frozenset of str
        Micrographs, by stems without uid and what is stripped; the file must not name another of these than its owner.
    strip : Strip, optional
    helix : {"ends", "segments", "whole"}, optional
        What is wanted of a file of filaments.

    Returns
    -------
    tuple
        y, x, score (or None); and the table for STAR, what a file of filaments says of them, else None.
    """
    _check_exists(Path(path), "coordinates")
    note(path)
    kind = Path(path).suffix.lower()
    if kind == ".star":
        from cryobox.formats import star

        found = star.read_coordinates(path, helix=helix)
        _check_one_image(path, star.names_in(found[3]), owner, known, strip)
        return found
    if helix is not None:
        from cryobox.formats import helix_files

        traced = helix_files.read_traced(path, helix) if kind in helix_files.TRACED_SUFFIXES else None
        if traced is not None:
            return traced
    if kind in (".box", ".cbox"):
        from cryobox.formats import box

        return box.read_traced_cbox(path) if kind == ".cbox" else (*box.read_box(path), None)
    if kind in _TEXT_SUFFIXES:
        from cryobox.formats import csv

        y, x, score, names = csv.read_coordinates(path)
        _check_one_image(path, list(dict.fromkeys(names or [])), owner, known, strip)
        return y, x, score, None
    if kind == _EMAN2_SUFFIX:
        from cryobox.formats import eman2

        return *eman2.read_info(path), None
    if kind in _XMIPP_SUFFIXES:
        from cryobox.formats import xmipp

        y, x, score, names = xmipp.read_xmipp(path)
        _check_one_image(path, list(dict.fromkeys(names or [])), owner, known, strip)
        return y, x, score, None
    if kind in _COORD_SUFFIXES:
        from cryobox.formats import coords

        return *coords.read_coords(path), None, None
    raise InputError(f"{path}: not a known type of coordinates; expected {', '.join(COORDINATE_SUFFIXES)}")


def plain_stems(names: Iterable[str], strip: Strip | None = None) -> list[str]:
    """Names of micrographs as they are compared where one file speaks of another's: without folders, type and uid."""
    from cryobox.matching import without_uid

    return [without_uid(strip(name) if strip else name) for name in names]


def _check_one_image(
    path: str | Path, names: list[str], owner: str | None, known: frozenset[str], strip: Strip | None
) -> None:
    if len(names) > 1:
        raise InputError(
            f"{path}: has picks of {len(names)} images ({names[0]}, ...), expected those of one micrograph; "
            "name this file itself as the picks"
        )
    if names and owner is not None:
        named, own = plain_stems((names[0], owner), strip)
        if named != own and known.issuperset((named, own)):
            raise InputError(
                f"{path}: its rows name the micrograph {names[0]}, but by its own name, or by the list that it is in, "
                f"it belongs to {owner}; rename the file or correct the list, or name this file itself as the picks"
            )


def read_micrographs(spec: str | Path, *, start: Start | None = None) -> Micrographs:
    """Read the micrographs that a user names.

    Parameters
    ----------
    spec : str or path
        `.star`, `.cs` or `.csg`; a folder, a glob pattern (`**` goes into folders), or one image.
    start : Start, optional
        Where relative paths start; images inside a root are named from there on. By default the working directory.

    Raises
    ------
    InputError
        If there is nothing of that name, or no micrograph in it.
    """
    start = start or Start.here()
    text = os.fspath(spec)
    path = Path(start.whole(text))
    kind = path.suffix.lower()
    if kind in _TABLE_SUFFIXES and os.path.isfile(path):
        from cryobox.formats import cs, star

        note(path)
        if kind == ".star":
            return star.read_micrographs(path, start=start)
        return cs.read_micrographs(path, start=start)
    if os.path.isdir(path):
        entries = [entry for entry in os.scandir(path) if _is_image(entry.name, IMAGE_SUFFIXES) and entry.is_file()]
        found = [os.path.join(text, entry.name) for entry in entries]
    elif os.path.exists(path):
        if not _is_image(text, (*IMAGE_SUFFIXES, *_STACK_SUFFIXES)):
            raise InputError(f"{spec}: not a table or image; expected {', '.join((*_TABLE_SUFFIXES, *IMAGE_SUFFIXES))}")
        found = [text]
    elif glob.has_magic(text):
        names = glob.glob(text, root_dir=start.directory, recursive=True)
        images = [name for name in names if _is_image(name, (*IMAGE_SUFFIXES, *_STACK_SUFFIXES))]
        found = [name for name in images if os.path.isfile(start.whole(name))]
    else:
        raise InputError(f"{spec}: no such file or folder of micrographs{_nearest(path)}")
    if not found:
        raise InputError(f"{spec}: holds no micrographs; expected files that end with {', '.join(IMAGE_SUFFIXES)}")
    return _plain_micrographs(text, sorted(found), start)


def describe(path: str | Path) -> list[str]:
    """Say in a few lines what a file is.

    Raises
    ------
    InputError
        If it is none that cryobox reads.
    """
    from cryobox.formats.description import describe_file

    return describe_file(Path(path))


def _check_exists(path: Path, what: str) -> None:
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder, expected a file of {what}")
    if not os.path.exists(path):
        if os.path.islink(path):
            raise InputError(f"{path}: is a link to {os.readlink(path)}, which does not exist; repair or remove it")
        raise InputError(f"{path}: no such file of {what}{_nearest(path)}")


def _nearest(path: Path) -> str:
    """A hint at a name in the same folder that differs by little."""
    from difflib import get_close_matches

    try:
        names = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return f"; there is no folder {path.parent}"
    near = get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def _is_image(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes) and not os.path.basename(name).startswith(".")


def micrographs_of(picks: Sequence[Particles], *, start: Start) -> Micrographs:
    """The micrographs that tables of particles name, without another table of theirs.

    A `.cs` says their shape and pixel size. A STAR file does not: rlnMicrographOriginalPixelSize and rlnImagePixelSize
    are those of other files (of a movie in super-resolution, of images), so what the headers say counts.

    Raises
    ------
    InputError
        If picks do not say on which file they lie.
    """
    from dataclasses import replace

    import numpy as np

    from cryobox.paths import find_file

    names: dict[str, tuple[str, float, tuple[int, int]]] = {}
    for part in picks:
        nameless = part.family == "cs" and "location/micrograph_path" not in (part.table.dtype.names or ())
        if part.family == "plain" or nameless or not all(part.micrograph_names):
            raise InputError(
                f"{part.source}: does not say where the files of its micrographs are; name them with --micrographs"
            )
        places = start.places(Path(part.source))
        if part.family == "cs":  # names of exported tables start in their folder
            places = (Path(part.source).resolve().parent, *places)
        for number, name in enumerate(part.micrograph_names):
            size = float("nan") if part.grid_pixel_size is None else float(part.grid_pixel_size[number])
            shape = (
                (0, 0)
                if part.grid_shape is None
                else (int(part.grid_shape[number, 0]), int(part.grid_shape[number, 1]))
            )
            names.setdefault(name, (find_file(name, places), size, shape))
    source = f"the micrographs that {' and '.join(part.source for part in picks)} names"
    return replace(
        _plain_micrographs(source, list(names), start),
        names=tuple(names),
        paths=tuple(path for path, _, _ in names.values()),
        pixel_size=np.array([size if size > 0 else float("nan") for _, size, _ in names.values()]),
        shape=np.array([shape for _, _, shape in names.values()], np.int64).reshape(-1, 2),
    )


def _plain_micrographs(source: str, given: list[str], start: Start) -> Micrographs:
    import numpy as np

    from cryobox.micrograph import Micrographs

    n = len(given)
    return Micrographs(
        family="plain",
        source=source,
        names=tuple(_name_from(path, start) for path in given),
        paths=tuple(map(start.whole, given)),
        pixel_size=np.full(n, np.nan),
        shape=np.zeros((n, 2), np.int64),
        optics_index=np.full(n, -1, np.intp),
        ctf={},
    )


def _name_from(path: str, start: Start) -> str:
    """How a table should name a file: from the root where it lies inside, else as the user wrote it."""
    if start.root is None:
        return os.path.normpath(path)
    whole, base = os.path.normpath(start.whole(path)), os.path.normpath(start.root)
    return os.path.relpath(whole, base) if whole.startswith(base.rstrip("/") + "/") else whole


def _has_helix_lines(path: Path) -> bool:
    from cryobox.formats import helix_files

    return helix_files.has_helix_lines(path)


def _suffix_of_job(path: Path) -> str | None:
    from cryobox.formats.folders import coordinate_suffix_of

    return coordinate_suffix_of(path)


def _check_distinct_paths(paths: Sequence[str | Path]) -> None:
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise InputError(f"{path}: is given twice as picks; expected each table once")
        seen.add(real)


def _read_folder(
    path: Path,
    micrographs: Micrographs | None,
    recipe: Recipe,
    start: Start,
    ready: Callable[[str], bool] | None,
) -> tuple[Particles, bool]:
    """The picks of a folder, and whether its files' names say which micrographs they belong to."""
    from dataclasses import replace

    from cryobox.formats.folders import find_picks

    folder, suffix = path, recipe.coordinate_suffix
    if not os.path.isdir(path):
        said = _suffix_of_job(path)
        if suffix not in (None, said):
            raise OptionError(f"{path}: says the suffix {said} itself; leave out --coord-suffix {suffix}")
        folder, suffix = path.parent, said
    found = find_picks(
        folder,
        types=COORDINATE_SUFFIXES,
        micrographs=micrographs,
        suffix=suffix,
        strip=strip_of(recipe),
        start=start,
        ready=ready,
    )
    if found.table is not None:
        return _read_table(found.table, start, recipe.helix), False
    recipe = replace(recipe, coordinate_suffix=suffix)
    names, warnings = _micrograph_names(str(path), found.files, folder, micrographs, recipe)
    own = names if micrographs is None else micrographs.names
    told = (*found.warnings, *warnings)
    return _join(str(path), names, found.files, told, known=own, strip=strip_of(recipe), helix=recipe.helix), True


def _join(
    source: str,
    names: Sequence[str],
    files: Sequence[Path],
    warnings: tuple[str, ...],
    *,
    known: Sequence[str] = (),
    strip: Strip | None = None,
    helix: Helix | None = None,
) -> Particles:
    from cryobox.formats import star

    stems = frozenset(plain_stems(known, strip))
    parts = [
        read_coordinate_file(file, owner=name, known=stems, strip=strip, helix=helix)
        for file, name in zip(files, names, strict=True)
    ]
    return star.join_coordinates(source, names, parts, (*warnings, *star.warn_of_blank(source, files)))


def strip_of(recipe: Reading) -> Strip:
    """What the recipe says is not compared in names."""
    from cryobox.matching import Strip

    return Strip(prefix=recipe.strip_prefix or "", suffix=recipe.strip_suffix or "")


def _micrograph_names(
    source: str, files: Sequence[Path], folder: Path | None, micrographs: Micrographs | None, recipe: Recipe
) -> tuple[list[str], tuple[str, ...]]:
    """The micrographs that coordinate files belong to, with the folders below `folder`."""
    from cryobox.formats.folders import names_of_files

    return names_of_files(
        source,
        files,
        folder=folder,
        types=COORDINATE_SUFFIXES,
        micrographs=micrographs,
        suffix=recipe.coordinate_suffix,
        strip=strip_of(recipe),
    )
