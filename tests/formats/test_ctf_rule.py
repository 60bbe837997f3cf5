"""All CTF quantities of a particle come from one place, together: random tables against the literal model of the rule.

CRYOBOX_TEST_CASES=2000 tries more of them. A failure names the seed: ctf_model.random_case(seed, joined=...) is the
case, joined where the picks are a list of coordinate files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cryobox.errors import InputError
from cryobox.formats import check_tables, star, star_output
from cryobox.options import Recipe
from cryobox.paths import Start
from formats import ctf_model as model
from star_tables import extraction, write

CASES = int(os.environ.get("CRYOBOX_TEST_CASES", "300"))
VOLTAGE, CS = "_rlnVoltage", "_rlnSphericalAberration"
LIST = "_rlnMicrographCoordinates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case: an error before any work, or warnings and a table."""

    case: model.Case
    error: str = ""
    warnings: tuple[str, ...] = ()
    optics: tuple[model.Row, ...] = ()
    rows: tuple[model.Row, ...] = ()

    def optics_of(self, row: model.Row) -> model.Row:
        (found,) = [group for group in self.optics if group[model.GROUP] == row[model.GROUP]]
        return found


def write_picks(case: model.Case, folder: Path) -> Path:
    if not case.joined:
        return write(folder / "picks.star", model.text_of(case.picks[0], "particles"))
    entries = []
    for i, table in enumerate(case.picks):
        rows = [{tag: text for tag, text in row.items() if tag != model.NAME} for row in table.rows]
        file = model.Star(rows=rows, optics=table.optics)
        write(folder / f"coordinates_{i}.star", model.text_of(file, "particles"))
        entries.append({model.NAME: table.rows[0][model.NAME], LIST: f"coordinates_{i}.star"})
    return write(folder / "picks.star", model.loop("data_coordinate_files", entries))


def outcome(case: model.Case, folder: Path) -> Outcome:
    picks = star.read_particles(write_picks(case, folder), start=Start.here(folder))
    files = star.read_micrographs(write(folder / "micrographs.star", model.text_of(case.micrographs, "micrographs")))
    extracted = extraction(picks, files, refresh_ctf=case.refresh)
    recipe = Recipe(box=extracted.box, sizes=(extracted.size,), style="relion", refresh_ctf=case.refresh)
    try:
        warnings = check_tables(
            picks,
            files,
            recipe,
            native="star",
            families=("star",),
            rows=extracted.rows,
            micrograph=extracted.micrograph,
            pixel_size=extracted.pixel_size,
        )
    except InputError as error:
        return Outcome(case=case, error=str(error))
    star_output.write_particles(folder / "out.star", picks, files, extracted)
    blocks = model.parse((folder / "out.star").read_text())
    return Outcome(case=case, warnings=warnings, optics=tuple(blocks["optics"]), rows=tuple(blocks["particles"]))


@pytest.fixture(scope="module", params=[False, True], ids=["one-table", "coordinate-files"])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder = tmp_path_factory.mktemp("ctf_rule")
    count = CASES // 3 if request.param else CASES - CASES // 3
    return [outcome(model.random_case(seed, joined=request.param), folder) for seed in range(count)]


def disagreements(outcomes: list[Outcome], check: Callable[[Outcome], str]) -> list[str]:
    """What the check says of each case, with its seed; cases that are refused are not asked."""
    said = [(done.case.seed, check(done)) for done in outcomes if not done.error]
    return [f"seed {seed}: {text}" for seed, text in said if text]


def each_particle(check: Callable[[model.Particle, model.Row, model.Row], str]) -> Callable[[Outcome], str]:
    """The check of one particle (as expected, its row, its optics group), for all of a case."""

    def check_all(done: Outcome) -> str:
        expected = model.particles(done.case)
        found = [check(e, row, done.optics_of(row)) for e, row in zip(expected, done.rows, strict=True)]
        return next((f"row {i}: {text}" for i, text in enumerate(found) if text), "")

    return check_all


def difference(what: str, found: object, expected: object) -> str:
    return "" if found == expected else f"{what} {found}, expected {expected}"


# The cases -----------------------------------------------------------------------------------------------------------


def test_the_cases_are_of_every_kind(outcomes: list[Outcome]) -> None:
    written = [done.case for done in outcomes if not done.error]
    assert len(written) > 0.6 * len(outcomes)
    kinds = {
        (
            bool(table.optics),
            bool(c.micrographs.optics),
            model.from_picks(c, table),
            c.refresh,
            model.has_defocus(table),
        )
        for c in written
        for table in c.picks
    }
    assert len(kinds) > 15  # of 20: 2 x 2 styles; five ways to the source
    sources = {len({model.from_picks(c, table) for table in c.picks}) for c in written}
    assert sources == ({1, 2} if written[0].joined else {1})
    assert any(done.error for done in outcomes)
    assert any(len({p.pixel_size for p in model.particles(case)}) > 1 for case in written)


# Rows ----------------------------------------------------------------------------------------------------------------


def test_every_ctf_quantity_of_a_row_is_that_of_its_source(outcomes: list[Outcome]) -> None:
    def check(expected: model.Particle, row: model.Row, _: model.Row) -> str:
        found = model.ctf_of_row(row, pictures=True)
        return model.unlike(found, expected.row, model.ROW_NEUTRAL, joined=expected.joined)

    assert disagreements(outcomes, each_particle(check)) == []


def test_rows_say_nothing_that_their_optics_group_says(outcomes: list[Outcome]) -> None:
    apart = {*model.CTF_OPTICS, *model.FLAGS, *model.OF_IMAGES, *model.SCALE_30, model.MTF, model.ORIGINAL}

    def check(done: Outcome) -> str:
        return difference("columns", apart & set(done.rows[0]), set())

    assert disagreements(outcomes, check) == []


def test_the_picks_stay_in_order_and_where_they_are(outcomes: list[Outcome]) -> None:
    kept = (model.NAME, "_rlnCoordinateX", "_rlnCoordinateY")

    def check(done: Outcome) -> str:
        picked = [row for _, row in done.case.each_pick()]
        found, expected = ([[row[tag] for tag in kept] for row in rows] for rows in (done.rows, picked))
        return difference("rows", found, expected)

    assert disagreements(outcomes, check) == []


# Optics groups -------------------------------------------------------------------------------------------------------


def test_every_ctf_quantity_of_the_optics_is_that_of_the_source(outcomes: list[Outcome]) -> None:
    def check(expected: model.Particle, _: model.Row, group: model.Row) -> str:
        found = model.known(group, *model.CTF_OPTICS)
        return model.unlike(found, expected.optics, model.OPTICS_NEUTRAL, joined=expected.joined)

    assert disagreements(outcomes, each_particle(check)) == []


def test_the_detector_is_that_of_the_micrographs_where_they_say_it(outcomes: list[Outcome]) -> None:
    def check(expected: model.Particle, _: model.Row, group: model.Row) -> str:
        found = model.known(group, model.MTF, model.ORIGINAL)
        neutral = {model.MTF: model.NO_FILE} if expected.joined else {}
        return model.unlike(found, expected.detector, neutral, joined=expected.joined)

    assert disagreements(outcomes, each_particle(check)) == []


def test_unknown_columns_of_the_optics_travel_with_their_source(outcomes: list[Outcome]) -> None:
    def check(expected: model.Particle, _: model.Row, group: model.Row) -> str:
        return model.unlike(model.unknown(group), expected.unknown, {}, joined=expected.joined)

    assert disagreements(outcomes, each_particle(check)) == []


def test_images_have_the_size_and_the_pixel_size_that_are_made(outcomes: list[Outcome]) -> None:
    def check(expected: model.Particle, _: model.Row, group: model.Row) -> str:
        found = model.effective(model.known(group, "_rlnImagePixelSize", "_rlnImageSize", *model.FLAGS), {})
        made = {"_rlnImagePixelSize": repr(2 * expected.pixel_size), "_rlnImageSize": "64.0"}  # windows of 128 px
        flags = dict.fromkeys(model.FLAGS, "0.0")
        return difference("has", {model.FLAGS[1]: "0.0"} | found, made | flags)

    assert disagreements(outcomes, each_particle(check)) == []


def test_numbers_and_names_of_groups_are_unique(outcomes: list[Outcome]) -> None:
    def check(done: Outcome) -> str:
        numbers = [int(group[model.GROUP]) for group in done.optics]
        names = [group[model.GROUP_NAME] for group in done.optics]
        fine = len(set(numbers)) == len(set(names)) == len(names) and min(numbers) >= 1
        return "" if fine else f"numbers {numbers}, names {names}"

    assert disagreements(outcomes, check) == []


def test_particles_share_a_group_exactly_where_nothing_tells_them_apart(outcomes: list[Outcome]) -> None:
    def check(done: Outcome) -> str:
        expected = model.particles(done.case)
        found = [row[model.GROUP] for row in done.rows]
        said = {p.said: g for p, g in zip(expected, found, strict=True)}
        meant = {g: p.meant for p, g in zip(expected, found, strict=True)}
        together = all(said[p.said] == g for p, g in zip(expected, found, strict=True))
        apart = all(meant[g] == p.meant for p, g in zip(expected, found, strict=True))
        used = len(set(found)) == len(done.optics)
        return "" if together and apart and used else f"{len(said)} kinds of rows in groups {found}"

    assert disagreements(outcomes, check) == []


def test_a_group_has_the_name_of_the_sources_and_only_one_of_each_name_has_it_unchanged(
    outcomes: list[Outcome],
) -> None:
    def check(done: Outcome) -> str:
        found: dict[str, set[str]] = {}
        for expected, row in zip(model.particles(done.case), done.rows, strict=True):
            found.setdefault(expected.name, set()).add(done.optics_of(row)[model.GROUP_NAME])
        # A name that is up to the program may be that of another table's group, which then is not the first.
        free = {text for name, names in found.items() if name.endswith("*") for text in names}
        for name, names in found.items():
            begin = "opticsGroup" if name.endswith("*") else name
            if not all(text.startswith(begin) for text in names) or (begin == name and name not in names | free):
                return f"{name} became {sorted(names)}"
        return ""

    assert disagreements(outcomes, check) == []


# What is said before any work ----------------------------------------------------------------------------------------


def test_another_voltage_is_refused_with_both_values_unless_the_ctf_is_refreshed(outcomes: list[Outcome]) -> None:
    wrong = []
    for done in outcomes:
        pairs = model.contradictions(done.case, VOLTAGE)
        expected = bool(pairs) and not done.case.refresh
        named = any(f" {a:g} kV" in done.error and f"says {b:g} kV" in done.error for a, b in pairs)
        if bool(done.error) != expected or (expected and not named):
            wrong.append(f"seed {done.case.seed}: {pairs}: {done.error or 'not refused'}")
    assert wrong == []


@pytest.mark.parametrize(("tag", "what"), [(VOLTAGE, "another voltage"), (CS, "another Cs")])
def test_another_value_of_the_microscope_is_told_once_with_the_one_that_is_used(
    outcomes: list[Outcome], tag: str, what: str
) -> None:
    def check(done: Outcome) -> str:
        told = [text for text in done.warnings if what in text]
        pairs = model.contradictions(done.case, tag)
        if len(told) != bool(pairs):
            return f"{pairs}: {told}"
        own = all(model.from_picks(done.case, table) for table in done.case.picks)
        return f"it is the picks' that is used: {told}" if own and "the micrographs' is used" in str(told) else ""

    assert disagreements(outcomes, check) == []


def test_a_column_taken_from_the_other_table_is_told_once(outcomes: list[Outcome]) -> None:
    def check(done: Outcome) -> str:
        filled = sorted({tag for expected in model.particles(done.case) for tag in expected.filled})
        told = [text for text in done.warnings if "taken from the other table" in text]
        found = sorted(tag for text in told for tag in model.NEEDED if tag in text)
        return difference("told of", found, filled)

    assert disagreements(outcomes, check) == []


def test_the_model_draws_the_same_tables_from_the_same_seed() -> None:
    assert model.random_case(5, joined=True) == model.random_case(5, joined=True)
    assert len({str(model.random_case(seed, joined=False)) for seed in range(20)}) == 20
