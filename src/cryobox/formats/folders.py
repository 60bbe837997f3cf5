"""Folders of coordinate files, as RELION, crYOLO and Gautomatch leave them: which files hold the picks, and of what.

A folder may hold much besides. What a file is follows from its name, if it begins with a micrograph's, and else from
its content. Picks of several kinds are never joined.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cryobox.errors import InputError
from cryobox.formats import xmipp
from cryobox.formats.box import strip_shared_suffix
from cryobox.formats.eman2 import INFO
from cryobox.formats.star_table import read_blocks
from cryobox.formats.star_text import listed
from cryobox.matching import NO_STRIP, Strip, shared_folders, stem, without_uid
from cryobox.micrograph import Micrographs
from cryobox.paths import Start, find_file

__all__ = [
    "Found",
    "coordinate_suffix_of",
    "files_below",
    "find_picks",
    "names_of_files",
    "split_suffix",
    "without_extension",
]

# Between a micrograph's name and the file type, as RELION's jobs write it: nothing to be told of.
RELION_SUFFIXES = ("_autopick", "_manualpick", "_topazpick", "_extract")
# Texts that programs leave beside picks, and that hold none.
_NOTES = re.compile(r"(note|readme|job|run|log|summary|command|version)s?([._-].*)?", re.IGNORECASE)
_JOB_SUFFIX = re.compile(r"coords_suffix(.+)")

_What = Literal["coordinates", "table", "list", "empty", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What holds the picks of a folder.

    Parameters
    ----------
    table : Path, optional
        The one table of all picks, or list of coordinate files.
    files : tuple of Path
        Else the coordinate files, one for each micrograph.
    warnings : tuple of str
    """

    table: Path | None = None
    files: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()


def split_suffix(text: str | None, types: Sequence[str]) -> tuple[str, str]:
    """What the user says that coordinate files end with: the text before the file type, and the type, "" if not said.

    RELION's `_autopick.star` is ours and the type; `.star` alone says that nothing stands between.
    """
    for kind in sorted(types, key=len, reverse=True):
        if text is not None and text.lower().endswith(kind):
            return text[: -len(kind)], kind
    return text or "", ""


def coordinate_suffix_of(path: Path) -> str | None:
    """The suffix that RELION 3.1 says with a file `coords_suffix_autopick.star`; None if `path` is no such file.

    The file holds one line, the path of the table of micrographs; the coordinate files lie in its folder and below.
    """
    found = _JOB_SUFFIX.fullmatch(path.name)
    if found is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return found[1] if b"data_" not in data and len(data.split()) <= 1 else None


def find_picks(
    folder: Path,
    *,
    types: Sequence[str],
    micrographs: Micrographs | None,
    suffix: str | None,
    strip: Strip = NO_STRIP,
    start: Start,
    ready: Callable[[str], bool] | None = None,
) -> Found:
    """Find the one kind of picks that a folder and those below it hold.

    Parameters
    ----------
    folder : Path
    types : sequence of str
        Endings of coordinate files.
    micrographs : Micrographs, optional
        Whose names tell coordinate files from other files.
    suffix : str, optional
        What the user says that coordinate files end with; only such files count.
    strip : Strip
    start : Start
        Where the files of a list are looked for.
    ready : callable, optional
        Which files may be read now.

    Raises
    ------
    InputError
        If there are none, or several kinds.
    """
    paths = [path for path in files_below(folder) if path.name.lower().endswith(tuple(types))]
    paths = [path for path in paths if coordinate_suffix_of(path) is None and _may_be_picks(path, suffix)]
    if suffix is not None:
        text, kind = split_suffix(suffix, types)
        chosen = [path for path in paths if _ends(path, text, kind, types)]
        if not text:
            known = _known(micrographs, strip)
            chosen = [path for path in chosen if not known or without_extension(path, types) in known]
        chosen = _without_longer_kinds(chosen, text, types, _known(micrographs, strip))
        if paths and not chosen:
            raise InputError(
                f"{folder}: no coordinate file has a name that ends with {suffix!r}; got for example {paths[0].name!r}"
            )
        warnings = _left_out(folder, paths, chosen, suffix, text, types, _known(micrographs, strip))
        kinds = _kinds_by_type(chosen, types)
        if len(kinds) > 1:
            raise _several(folder, [(f"*{text}{k}", files) for k, files in kinds.items()])
        return _of_files(folder, chosen, types, warnings, ready)
    return _the_only_kind(folder, paths, types, _known(micrographs, strip), start, ready)


def _without_longer_kinds(chosen: Sequence[Path], text: str, types: Sequence[str], known: frozenset[str]) -> list[Path]:
    """Of a_pick and a_old_pick for one micrograph, both of which end with _pick, the first."""
    names = {path: without_extension(path, types).removesuffix(text) for path in chosen}
    have = known.intersection(names.values())

    def is_longer(name: str) -> bool:
        rest = _behind_micrograph(name, known)
        return bool(rest) and name.removesuffix(rest or "") in have

    return [path for path in chosen if not is_longer(names[path])]


def _left_out(
    folder: Path,
    paths: Sequence[Path],
    chosen: Sequence[Path],
    suffix: str,
    text: str,
    types: Sequence[str],
    known: frozenset[str],
) -> tuple[str, ...]:
    """Say which micrographs have picks of another kind only."""
    have = {without_extension(path, types).removesuffix(text) for path in chosen}
    lost, taken = [], set(chosen)
    for path in paths:
        name = without_extension(path, types)
        rest = _behind_micrograph(name, known)
        if rest is not None and path not in taken and name.removesuffix(rest) not in have:
            lost.append(_inside(folder, path))
    if not lost:
        return ()
    told = f"{len(lost)} coordinate files of micrographs that have none ending with {suffix!r} are left out"
    return (f"{folder}: {told} ({listed(lost, 3)})",)


def _the_only_kind(
    folder: Path,
    paths: Sequence[Path],
    types: Sequence[str],
    known: frozenset[str],
    start: Start,
    ready: Callable[[str], bool] | None,
) -> Found:
    kinds: dict[tuple[str, str], list[Path]] = {}
    unknown: dict[_What, list[Path]] = {what: [] for what in get_args(_What)}
    strangers = []
    for path in paths:
        rest = _behind_micrograph(without_extension(path, types), known)
        if rest is None:
            strangers.append(path)
        else:
            kinds.setdefault((rest, _type(path, types)), []).append(path)
    for path in strangers:
        # A micrograph that the table does not have has a coordinate file of the same kind.
        same = [(rest, kind) for rest, kind in kinds if rest and _ends(path, rest, kind, types)]
        if same:
            kinds[same[0]].append(path)
        else:
            unknown[_what(path, types)].append(path)
    if not known:  # then names say nothing
        unknown["coordinates"] += unknown["empty"]
    lists, tables = unknown["list"], unknown["table"]
    if len(lists) == 1:
        if ready is not None and not ready(str(lists[0])):
            raise InputError(f"{lists[0]}: is still being written")
        if not kinds or _some_file_exists(lists[0], start):
            return Found(table=lists[0])
        lists = []
    for path in unknown["coordinates"]:
        kinds.setdefault(("", _type(path, types)), []).append(path)  # not what others end with: of another kind
    wholes = [*lists, *tables]
    if wholes and (kinds or len(wholes) > 1):
        every = [(_inside(folder, path), [path]) for path in wholes]
        raise _several(folder, [*every, *((f"*{rest}{kind}", files) for (rest, kind), files in kinds.items())])
    if wholes:
        return Found(table=wholes[0])
    if len(kinds) > 1:
        raise _several(folder, [(f"*{rest}{kind}", files) for (rest, kind), files in kinds.items()])
    files = sorted(path for found in kinds.values() for path in found)
    sole = files[0] if files == unknown["coordinates"] and len(files) == 1 else None
    if sole is not None and (ready is None or ready(str(sole))) and _names_a_known(sole, known):
        return Found(table=sole)
    if not files and unknown["nothing"]:
        from cryobox.formats import read_coordinate_file

        read_coordinate_file(unknown["nothing"][0])  # it says what the file is
    odd = [path.name for path in unknown["nothing"] if _type(path, types) != ".star" and not _NOTES.match(path.name)]
    warnings = (f"{folder}: no coordinates in {listed(odd, 5)}; left out",) if odd and files else ()
    return _of_files(folder, files, types, warnings, ready)


def _of_files(
    folder: Path,
    files: Sequence[Path],
    types: Sequence[str],
    warnings: tuple[str, ...],
    ready: Callable[[str], bool] | None,
) -> Found:
    whole = tuple(path for path in files if ready is None or ready(str(path)))
    if not whole:
        raise InputError(f"{folder}: holds no coordinate files; expected {', '.join(types)}")
    return Found(files=whole, warnings=warnings)


def names_of_files(
    source: str,
    files: Sequence[Path],
    *,
    folder: Path | None,
    types: Sequence[str],
    micrographs: Micrographs | None,
    suffix: str | None,
    strip: Strip = NO_STRIP,
    what: str = "coordinate files",
) -> tuple[list[str], tuple[str, ...]]:
    """The micrographs that coordinate files belong to: stems, with the folders below `folder`; and warnings.

    Other files that are named by micrographs are found in the same way; `what` they are, for messages.

    Raises
    ------
    InputError
        If two files belong to one micrograph.
    """
    if folder is None and suffix is None and len(files) > 1:
        _check_one_kind(source, files, types, _known(micrographs, strip))
    text, kind = split_suffix(suffix, types)
    if wrong := [path.name for path in files if not _ends(path, text, kind, types)]:
        if len(wrong) == len(files):
            raise InputError(
                f"{source}: no coordinate file has a name that ends with {suffix!r}; got for example {wrong[0]!r}"
            )
        raise InputError(f"{source}: {wrong[0]} does not end with {suffix!r}; name the files of one kind")
    bare = [without_extension(path, types) for path in files]
    if suffix is None:
        bare = [name.removesuffix(INFO) if _is_info(path) else name for name, path in zip(bare, files, strict=True)]
    taken = ""
    if suffix is None or text:
        known = [] if micrographs is None else sorted(_known(micrographs, strip))
        bare, taken = strip_shared_suffix(bare, known, text or None, source=source)
        if known and not taken and not set(known).intersection(bare):  # a suffix all the same, whatever else differs
            taken = next((end for end in RELION_SUFFIXES if all(name.endswith(end) for name in bare)), "")
            bare = [name.removesuffix(taken) for name in bare]
    stems = Counter(stem(name) for name in (() if micrographs is None else micrographs.names))
    names = []
    for name, path in zip(bare, files, strict=True):
        inner = Path(_inside(folder, path)).parent if folder is not None else Path()
        if inner == Path() and stems[name] > 1:  # of several micrographs of that name, the one in the folder's
            inner = Path(path.resolve().parent.name)
        names.append((inner / name).as_posix())
    seen: dict[str, Path] = {}
    for name, path in zip(names, files, strict=True):
        if seen.setdefault(name, path) != path:
            raise InputError(f"{source}: {seen[name].name} and {path.name} both belong to {name}; expected one of them")
    if folder is not None and micrographs is not None:
        _check_folders(folder, names, files, [strip(name) for name in micrographs.names], strip)
    if not taken or suffix or taken in RELION_SUFFIXES:
        return names, ()
    return names, (f"{source}: {taken!r} taken off the names of the {what} to find their micrographs",)


def _check_one_kind(source: str, files: Sequence[Path], types: Sequence[str], known: frozenset[str]) -> None:
    """Files that were named one by one, as the shell makes them of a pattern."""
    kinds: Counter[str] = Counter()
    for path in files:
        rest = _behind_micrograph(without_extension(path, types), known)
        if rest is not None:
            kinds[f"*{rest}{_type(path, types)}"] += 1
    if len(kinds) > 1:
        shown = ", ".join(f"{count} {label}" for label, count in kinds.items())
        raise InputError(f"{source}: are several kinds of picks: {shown}; name the files of one kind")


def _check_folders(
    folder: Path, names: Sequence[str], files: Sequence[Path], micrographs: Sequence[str], strip: Strip
) -> None:
    """Several files for one micrograph in subfolders that are not the micrographs' own."""
    of_stem: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        of_stem.setdefault(stem(strip(name)), []).append(i)
    twice = {text: rows for text, rows in of_stem.items() if len(rows) > 1}
    if not twice:
        return
    known: dict[str, list[str]] = {}
    for name in micrographs:
        known.setdefault(stem(name), []).append(name)
    for text, rows in twice.items():
        if text in known and not any(shared_folders(names[i], name) for i in rows for name in known[text]):
            groups: dict[str, list[Path]] = {}
            for name, path in zip(names, files, strict=True):
                groups.setdefault(name.rpartition("/")[0], []).append(path)
            raise _several(folder, [(f"{inner}/*{files[rows[0]].suffix}", found) for inner, found in groups.items()])


def _several(folder: Path, kinds: Sequence[tuple[str, Sequence[Path]]]) -> InputError:
    """The error that lists kinds of picks, and says how to choose one."""
    shown, choices = [], []
    for label, files in kinds:
        inner = {os.path.dirname(_inside(folder, path)) for path in files}
        place = next(iter(inner)) if len(inner) == 1 else ""
        shown.append(f"{len(files)} {label if '/' in label or not place else f'{place}/{label}'}")
        choices.append((label, place))
    places = [place for _, place in choices]
    if all(places) and len(set(places)) == len(places):
        remedy = f"give one of these folders, as {folder / places[0]}"
    elif any(not label.startswith("*") for label, _ in choices):
        whole = next(label for label, _ in choices if not label.startswith("*"))
        remedy = f"give one of the files, as {folder / whole}"
        if files_too := [label for label, _ in choices if label.startswith("*")]:
            remedy += f", or say which coordinate files with --coord-suffix {files_too[0].removeprefix('*')}"
    else:
        remedy = f"say which with --coord-suffix {choices[0][0].removeprefix('*')}"
    return InputError(f"{folder}: holds several kinds of picks: {', '.join(shown)}; {remedy}")


def _kinds_by_type(paths: Sequence[Path], types: Sequence[str]) -> dict[str, list[Path]]:
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(_type(path, types), []).append(path)
    return kinds


def files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and those below it, in order; nothing hidden, no folder twice."""
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be looked into: {error.strerror}") from error

    for place, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _inside(folder: Path | None, path: Path) -> str:
    return os.path.relpath(path, folder) if folder is not None else path.name


def _is_info(path: Path) -> bool:
    return path.name.lower().endswith(f"{INFO}.json")


def _may_be_picks(path: Path, suffix: str | None) -> bool:
    """Not what EMAN2 and Xmipp keep beside coordinate files: info/project.json, config.xmd."""
    kind = path.suffix.lower()
    if kind == ".json":
        return _is_info(path) or suffix is not None
    return kind != ".xmd" or xmipp.holds_picks(path)


def _type(path: Path, types: Sequence[str]) -> str:
    return next(kind for kind in sorted(types, key=len, reverse=True) if path.name.lower().endswith(kind))


def without_extension(path: Path, types: Sequence[str]) -> str:
    """The name of a coordinate file without its type."""
    return path.name[: -len(_type(path, types))]


def _ends(path: Path, text: str, kind: str, types: Sequence[str]) -> bool:
    return (not kind or _type(path, types) == kind) and without_extension(path, types).endswith(text)


def _known(micrographs: Micrographs | None, strip: Strip) -> frozenset[str]:
    """The stems of micrographs, as files may call them."""
    names = () if micrographs is None else micrographs.names
    both = (*names, *map(strip, names)) if strip else names
    return frozenset(text for name in both for text in (stem(name), without_uid(name)))


def _behind_micrograph(text: str, known: frozenset[str]) -> str | None:
    """What a name has behind that of a known micrograph, the longest one; None where it begins with none."""
    if text in known:
        return ""
    for end in range(len(text) - 1, 0, -1):
        if not text[end].isalnum() and text[:end] in known:
            return text[end:]
    return None


def _what(path: Path, types: Sequence[str]) -> _What:
    """What a file holds, by its content; what cannot be read as expected is for its reader to refuse."""
    try:
        data = path.read_bytes()
    except OSError:
        return "coordinates"
    if not data.strip():
        return "empty"
    kind = _type(path, types)
    if kind == ".star":
        return _what_star(path, data)
    if kind in (".box", ".cbox"):
        return "coordinates"
    from cryobox.formats import csv, read_coordinate_file

    try:
        if kind not in (".txt", ".csv", ".tsv"):
            read_coordinate_file(path)
            return "coordinates"
        *_, names = csv.read_coordinates(path)
    except InputError:
        return "nothing"
    return "table" if names is not None and len(set(names)) > 1 else "coordinates"


def _what_star(path: Path, data: bytes) -> _What:
    def has(tag: bytes) -> bool:
        return re.search(rb"^\s*" + tag + rb"\b", data, re.MULTILINE) is not None

    if has(b"_rlnMicrographCoordinates"):
        return "list"
    if has(b"_rlnCoordinateX"):
        return "table" if has(b"_rlnMicrographName") and _several_names(path) else "coordinates"
    return "coordinates" if has(b"_CoordinateX") else "nothing"


def _several_names(path: Path) -> bool:
    return len(_names_in_star(path)) > 1


def _names_in_star(path: Path) -> list[str]:
    """The micrographs that the fullest block of a STAR file names."""
    tables = [block.table() for block in read_blocks(path).values()]
    return max((t.codes("_rlnMicrographName")[1] for t in tables if "_rlnMicrographName" in t), key=len, default=[])


def _names_a_known(path: Path, known: frozenset[str]) -> bool:
    """Whether a file that is called as no micrograph names one in its rows: it is a table, if a small one."""
    from cryobox.formats import csv

    kind = path.suffix.lower()
    names = None
    if kind == ".star":
        names = _names_in_star(path)
    elif kind in (".txt", ".csv", ".tsv"):
        *_, names = csv.read_coordinates(path)
    return any(stem(name) in known or without_uid(name) in known for name in names or ())


def _some_file_exists(path: Path, start: Start) -> bool:
    """Whether a list names files that can be found; one that was copied without its project does not."""
    places = start.places(path)
    for block in read_blocks(path).values():
        table = block.table()
        if "_rlnMicrographCoordinates" in table:
            return any(os.path.exists(find_file(name, places)) for name in table.texts("_rlnMicrographCoordinates"))
    return False
