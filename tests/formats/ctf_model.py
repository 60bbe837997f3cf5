"""The rule of CTF columns as a literal model, row by row in plain dicts, and random tables to try it on.

Shares no code with cryobox, its list of columns included: what is written here is the rule, read aloud.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Row = dict[str, str]
Rng = np.random.Generator

NAME, GROUP, GROUP_NAME = "_rlnMicrographName", "_rlnOpticsGroup", "_rlnOpticsGroupName"
DEFOCUS = "_rlnDefocusU"
NEEDED = ("_rlnVoltage", "_rlnSphericalAberration", "_rlnAmplitudeContrast")
BEAM_TILT = ("_rlnBeamTiltX", "_rlnBeamTiltY")
ZERNIKE = ("_rlnOddZernike", "_rlnEvenZernike")
MATRIX = ("_rlnMagMat00", "_rlnMagMat01", "_rlnMagMat10", "_rlnMagMat11")
CTF_OPTICS = (*NEEDED, *BEAM_TILT, *ZERNIKE, *MATRIX)
MTF, ORIGINAL, MICROGRAPH_PIXEL = "_rlnMtfFileName", "_rlnMicrographOriginalPixelSize", "_rlnMicrographPixelSize"
FLAGS = ("_rlnCtfDataAreCtfPremultiplied", "_rlnCtfDataArePhaseFlipped")
OF_IMAGES = (MICROGRAPH_PIXEL, "_rlnImagePixelSize", "_rlnImageSize", "_rlnImageDimensionality", *FLAGS)
SCALE_30 = ("_rlnMagnification", "_rlnDetectorPixelSize")
PICTURES = ("_rlnCtfImage", "_rlnCtfPowerSpectrum")
ROW_NEUTRAL = {"_rlnPhaseShift": "0", "_rlnCtfBfactor": "0", "_rlnCtfScalefactor": "1"}
NO_FILE = '""'
OPTICS_NEUTRAL = dict.fromkeys((*BEAM_TILT, *ZERNIKE), "0") | dict(zip(MATRIX, "1001", strict=True))

DEFAULT_PIXEL_SIZE = 1.25  # of micrographs whose table does not say, as star_tables.extraction has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Star:
    """A table; `optics` is empty in RELION 3.0's style, where rows say it all."""

    rows: list[Row]
    optics: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a user gives: one table of picks, or (`joined`) a list of coordinate files, one for each micrograph."""

    seed: int
    picks: tuple[Star, ...]
    micrographs: Star
    refresh: bool
    joined: bool = False

    def each_pick(self) -> list[tuple[Star, Row]]:
        return [(star, row) for star in self.picks for row in star.rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Particle:
    """What must be written of one particle."""

    row: Row  # CTF columns
    optics: Row  # CTF columns
    detector: Row
    unknown: Row
    name: str  # of the input's group; ends with * where cryobox may choose the rest
    pixel_size: float  # of the micrograph
    filled: tuple[str, ...]  # optics columns that had to come from the other table
    joined: bool  # with the rows of other files, whose columns are 0 where this one says nothing

    @property
    def said(self) -> tuple[Any, ...]:
        """Equal for particles of which the same is said: they belong into one optics group."""
        return self._key(self.optics | self.detector | self.unknown)

    @property
    def meant(self) -> tuple[Any, ...]:
        """Different for particles that cannot be in one optics group."""
        said = OPTICS_NEUTRAL | self.optics | self.detector | self.unknown
        return self._key({tag: text for tag, text in said.items() if not (self.joined and same(text) == "0.0")})

    def _key(self, values: Row) -> tuple[Any, ...]:
        return (self.name, self.pixel_size, *sorted((tag, same(text)) for tag, text in values.items()))


# The rule ------------------------------------------------------------------------------------------------------------


def has_defocus(star: Star) -> bool:
    return DEFOCUS in star.rows[0]


def from_picks(case: Case, star: Star) -> bool:
    """Whether the CTF of the particles is that of their table of picks."""
    return has_defocus(star) and not (case.refresh and has_defocus(case.micrographs))


def particles(case: Case) -> list[Particle]:
    return [particle(case, star, pick) for star, pick in case.each_pick()]


def particle(case: Case, star: Star, pick: Row) -> Particle:
    micrograph = micrograph_of(case, pick)
    of_pick, of_micrograph = optics_of(star, pick), optics_of(case.micrographs, micrograph)
    own = from_picks(case, star)
    source, other = (of_pick, of_micrograph) if own else (of_micrograph, of_pick)
    filled = tuple(tag for tag in NEEDED if tag not in source and tag in other)
    optics = {tag: source[tag] for tag in CTF_OPTICS if tag in source} | {tag: other[tag] for tag in filled}
    size = pixel_size(case.micrographs, micrograph)
    return Particle(
        row=ctf_of_row(pick, pictures=True) if own else ctf_of_row(micrograph, pictures=False),
        optics=optics,
        detector={ORIGINAL: str(size)} | known(of_pick, MTF, ORIGINAL) | known(of_micrograph, MTF, ORIGINAL),
        unknown=unknown(other) | unknown(source),
        name=group_name(source, other, of_micrograph),
        pixel_size=size,
        filled=filled,
        joined=case.joined,
    )


def micrograph_of(case: Case, pick: Row) -> Row:
    (found,) = [row for row in case.micrographs.rows if row[NAME] == pick[NAME]]
    return found


def optics_of(star: Star, row: Row) -> Row:
    """What a table says of a row's optics."""
    if not star.optics:
        said = {tag: text for tag, text in row.items() if tag in (*CTF_OPTICS, MTF, ORIGINAL)}
        # The rows of 3.0 that agree are one group, which has no name yet.
        told_apart = [f"{tag}={same(row[tag])}" for tag in (*CTF_OPTICS, MTF, ORIGINAL, *SCALE_30) if tag in row]
        return said | ({"unnamed": ";".join(told_apart)} if told_apart else {})
    if GROUP not in row:
        return star.optics[0]
    (found,) = [group for group in star.optics if int(group[GROUP]) == int(row[GROUP])]
    return found


def known(row: Row, *tags: str) -> Row:
    return {tag: row[tag] for tag in tags if tag in row}


def unknown(optics: Row) -> Row:
    apart = (*CTF_OPTICS, *OF_IMAGES, MTF, ORIGINAL, GROUP, GROUP_NAME, "unnamed")
    return {tag: text for tag, text in optics.items() if tag not in apart}


def group_name(source: Row, other: Row, of_micrograph: Row) -> str:
    """The source's; 3.0-style picks have none, and the names of 3.0-style micrographs are up to the program."""
    for row in (source, other):
        if GROUP in row:
            return row.get(GROUP_NAME, "opticsGroup" + row[GROUP])
        if row is of_micrograph and "unnamed" in row:
            break
    return f"opticsGroup;{of_micrograph.get('unnamed', '')}*"


def ctf_of_row(row: Row, *, pictures: bool) -> Row:
    found = {}
    for tag, text in row.items():
        is_ctf = tag in ("_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle", "_rlnPhaseShift") or tag[:7] == "_rlnCtf"
        if is_ctf and tag not in FLAGS and (pictures or tag not in PICTURES):
            found[tag] = text
    return found


def pixel_size(micrographs: Star, row: Row) -> float:
    if micrographs.optics:
        return float(optics_of(micrographs, row).get(MICROGRAPH_PIXEL, DEFAULT_PIXEL_SIZE))
    if SCALE_30[0] not in row:
        return DEFAULT_PIXEL_SIZE
    return round(1e4 * float(row[SCALE_30[1]]) / float(row[SCALE_30[0]]), 6)


def contradictions(case: Case, tag: str) -> set[tuple[float, float]]:
    """The values of picks and micrographs that differ by more than 1/1000; a voltage of 0 is none."""
    found = set()
    for star, pick in case.each_pick():
        of_pick, of_file = optics_of(star, pick), optics_of(case.micrographs, micrograph_of(case, pick))
        if tag not in of_pick or tag not in of_file:
            continue
        pair = float(of_pick[tag]), float(of_file[tag])
        if tag == "_rlnVoltage" and min(pair) <= 0:
            continue
        if abs(pair[0] - pair[1]) > 1e-3 * max(pair):
            found.add(pair)
    return found


def same(text: str) -> str:
    """Equal for equal numbers, however they are written."""
    try:
        return repr(float(text))
    except ValueError:
        return text


def unlike(found: Row, expected: Row, neutral: Row, *, joined: bool) -> str:
    """The values that differ, what a row says by saying nothing included."""
    absent = dict.fromkeys((*found, *expected), "0") if joined else {}
    first, second = (effective(row, absent | neutral) for row in (found, expected))
    tags = [tag for tag in dict.fromkeys((*first, *second)) if first.get(tag) != second.get(tag)]
    return "; ".join(f"{tag} is {first.get(tag)}, expected {second.get(tag)}" for tag in tags)


def effective(row: Row, neutral: Row) -> Row:
    return {tag: no_aberration(text) if tag in ZERNIKE else same(text) for tag, text in (neutral | row).items()}


def no_aberration(text: str) -> str:
    """Zeros, however many, are no aberration."""
    return text if any(float(number) for number in text.strip("[]").split(",")) else "none"


# Tables as text ------------------------------------------------------------------------------------------------------


def text_of(star: Star, block: str) -> str:
    loops = [loop(f"data_{block}" if star.optics else "data_", star.rows)]
    if star.optics:
        loops.insert(0, loop("data_optics", star.optics))
    return "\n".join(loops)


def loop(title: str, rows: list[Row]) -> str:
    lines = [title, "", "loop_", *(f"{tag} #{i}" for i, tag in enumerate(rows[0], 1))]
    return "\n".join((*lines, *(" ".join(row.values()) for row in rows), "", ""))


def parse(text: str) -> dict[str, list[Row]]:
    """The blocks of a table without quotes or comments in its rows."""
    blocks: dict[str, list[Row]] = {}
    tags: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] in ("loop_", "#"):
            continue
        if words[0].startswith("data_"):
            rows = blocks.setdefault(words[0][5:], [])
            tags = []
        elif words[0].startswith("_") and not rows and (len(words) == 1 or words[1][0] == "#"):
            tags.append(words[0])
        else:
            rows.append(dict(zip(tags, words, strict=True)))
    return blocks


# Random tables -------------------------------------------------------------------------------------------------------


def random_case(seed: int, *, joined: bool) -> Case:
    rng = np.random.default_rng((seed, joined))
    usual = {tag: str(rng.choice(VALUES[tag])) for tag in NEEDED}
    micrographs = random_micrographs(rng, usual)
    names = [row[NAME] for row in micrographs.rows]
    picks = [random_picks(rng, usual, some) for some in ([[name] for name in names] if joined else [names])]
    if joined and chance(rng, 0.5):  # of one program: all of one style
        picks = [star for star in picks if bool(star.optics) == bool(picks[0].optics)]
    return Case(seed=seed, micrographs=micrographs, picks=tuple(picks), refresh=chance(rng, 0.35), joined=joined)


VALUES = {
    "_rlnVoltage": ("300", "300.000000", "299.9", "200", "200.1", "0"),
    "_rlnSphericalAberration": ("2.7", "2.700000", "2.62", "0.01", "0"),
    "_rlnAmplitudeContrast": ("0.1", "0.100000", "0.07"),
    "_rlnBeamTiltX": ("0.1", "-0.25", "0"),
    "_rlnBeamTiltY": ("0.3", "0", "1e-1"),
    "_rlnOddZernike": ("[0,0,0]", "[0.1,-2,0.5]"),
    "_rlnEvenZernike": ("[0,0,0]", "[3,0.25,0]", "[1]"),
    "_rlnMagMat00": ("1", "1.01"),
    "_rlnMagMat01": ("0", "0.002"),
    "_rlnMagMat10": ("0", "0.002"),
    "_rlnMagMat11": ("1.000000", "0.98"),
    MTF: ("mtf_k2.star", "mtf_k3.star"),
    ORIGINAL: ("0.625", "0.75"),
    MICROGRAPH_PIXEL: ("1.25", "1.250000", "1.5"),
    FLAGS[0]: ("0", "1"),
    FLAGS[1]: ("0", "1"),
    "_rlnOddity": ("x", "y", "1"),
    "_labNote": ("5", "5.0", "6"),
    "_rlnMagnification": ("40000",),
    "_rlnDetectorPixelSize": ("5", "5.000000", "6"),
    "_rlnPhaseShift": ("0", "90", "12.5"),
    "_rlnCtfBfactor": ("0", "150.5"),
    "_rlnCtfScalefactor": ("1", "0.8"),
    "_rlnCtfImage": ("Ctf/a.ctf:mrc", "Ctf/b.ctf:mrc"),
    "_rlnCtfPowerSpectrum": ("Ctf/a_ps.mrc", "Ctf/b_ps.mrc"),
}
NAMES = ("opticsGroup1", "opticsGroup2", "opticsGroup01", "shot", "shot_2", "shot_1.5", "3")
NUMBERS = ("1", "01", "2", "3", "007", "12", "0")


def chance(rng: Rng, p: float) -> bool:
    return bool(rng.random() < p)


def value(rng: Rng, tag: str, usual: Row) -> str:
    if tag in usual and chance(rng, 0.9):
        return usual[tag]
    if tag in VALUES:
        return str(rng.choice(VALUES[tag]))
    return f"{rng.integers(1000, 30000) / 8:.{rng.integers(3, 7)}f}"


def drawn(rng: Rng, chances: dict[tuple[str, ...], float]) -> list[str]:
    return [tag for tags, p in chances.items() if chance(rng, p) for tag in tags]


def random_optics(rng: Rng, usual: Row, *, images: dict[tuple[str, ...], float]) -> list[Row]:
    chances = {(tag,): 0.85 for tag in NEEDED} | {(GROUP_NAME,): 0.9, BEAM_TILT: 0.3, MATRIX: 0.2, (MTF,): 0.3}
    chances |= {(tag,): 0.25 for tag in (*ZERNIKE, "_rlnOddity", "_labNote")} | {(ORIGINAL,): 0.35} | images
    tags = drawn(rng, chances)
    count = int(rng.integers(1, 4))
    numbers = rng.permutation([n for n in NUMBERS if n != str(rng.choice(["1", "01"]))]).tolist()
    distinct: list[str] = []
    for text in numbers:
        if int(text) not in map(int, distinct):
            distinct.append(text)
    names = rng.choice(NAMES, count, replace=chance(rng, 0.2)).tolist()
    rows = []
    for number, name in zip(distinct, names, strict=False):
        row = {GROUP: number} | {tag: value(rng, tag, usual) for tag in tags}
        rows.append(row | ({GROUP_NAME: name} if GROUP_NAME in tags else {}))
    if chance(rng, 0.1):  # two groups of one name that agree
        rows[-1] = rows[0] | {GROUP: rows[-1][GROUP]}
    return rows


def random_30(rng: Rng, usual: Row) -> list[Row]:
    """A few sets of values that 3.0-style rows have."""
    chances = {(tag,): 0.8 for tag in NEEDED} | {BEAM_TILT: 0.25, SCALE_30: 0.7, (ORIGINAL,): 0.1, (MTF,): 0.1}
    tags = drawn(rng, chances) if chance(rng, 0.9) else []
    return [{tag: value(rng, tag, usual) for tag in tags} for _ in range(int(rng.integers(1, 4)))]


def random_fit(rng: Rng, count: int, *, defocus: float) -> list[Row]:
    chances = {
        (DEFOCUS, "_rlnDefocusV", "_rlnDefocusAngle"): defocus,
        ("_rlnCtfFigureOfMerit",): 0.3,
        PICTURES[:1]: 0.4,
    }
    chances |= {(tag,): 0.25 for tag in ("_rlnCtfMaxResolution", "_rlnCtfAstigmatism", *ROW_NEUTRAL)}
    chances |= {PICTURES[1:]: 0.1, FLAGS[1:]: 0.05, ("_rlnCtfNewInRelion9",): 0.1}
    tags = drawn(rng, chances)
    rows = [{tag: value(rng, tag, {}) for tag in tags} for _ in range(count)]
    shuffled = rng.permutation(tags).tolist()
    return [{tag: row[tag] for tag in shuffled} for row in rows]


def number_in_row(rng: Rng, number: str) -> str:
    """A group's number, written as a program may."""
    return str(rng.choice([number, number, str(int(number)), "0" + number]))


def with_optics(rng: Rng, rows: list[Row], optics: list[Row], sets: list[Row]) -> list[Row]:
    """Rows with a group's number, or with a 3.0-style set of values."""
    if not optics:
        return [row | sets[rng.integers(len(sets))] for row in rows]
    if len(optics) == 1 and chance(rng, 0.3):
        return rows
    return [row | {GROUP: number_in_row(rng, optics[rng.integers(len(optics))][GROUP])} for row in rows]


def random_micrographs(rng: Rng, usual: Row) -> Star:
    modern = chance(rng, 0.7)
    optics = random_optics(rng, usual, images={(MICROGRAPH_PIXEL,): 0.9, FLAGS[:1]: 0.05}) if modern else []
    count = int(rng.integers(1, 5))
    rows = [{NAME: f"Motion/{i}.mrc"} | fit for i, fit in enumerate(random_fit(rng, count, defocus=0.75))]
    return Star(rows=with_optics(rng, rows, optics, random_30(rng, usual)), optics=optics)


def random_picks(rng: Rng, usual: Row, names: list[str]) -> Star:
    modern = chance(rng, 0.65)
    images = {(MICROGRAPH_PIXEL,): 0.2, ("_rlnImagePixelSize", "_rlnImageSize"): 0.5, FLAGS: 0.2}
    optics = random_optics(rng, usual, images=images) if modern else []
    images_31 = {"_rlnImagePixelSize": "2.5", "_rlnImageSize": "100"}
    optics = [row | {tag: text for tag, text in images_31.items() if tag in row} for row in optics]
    count = int(rng.integers(1, 9))
    rows = [
        {NAME: str(rng.choice(names)), "_rlnCoordinateX": str(10 + i), "_rlnCoordinateY": "20"} | fit
        for i, fit in enumerate(random_fit(rng, count, defocus=0.6))
    ]
    if chance(rng, 0.3):  # as a table of picks is: nothing but coordinates
        rows = [{tag: row[tag] for tag in (NAME, "_rlnCoordinateX", "_rlnCoordinateY")} for row in rows]
    if not optics and chance(rng, 0.2):
        return Star(rows=rows)
    return Star(rows=with_optics(rng, rows, optics, random_30(rng, usual)), optics=optics)
