"""Tables of the other family: converted from what the picks' own family is written as, over the same stacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cryobox.convert.conversion import Converted, to_cs, to_star
from cryobox.convert.places import Grounds, Places
from cryobox.convert.texts import read_star, write_star
from cryobox.formats import table_writer
from cryobox.formats.columns import DIVISOR_FIELD
from cryobox.formats.cs_output import build_particles
from cryobox.formats.cs_table import write_table
from cryobox.formats.csg import write_group
from cryobox.formats.star_optics import GROUP, image_flags
from cryobox.micrograph import Micrographs
from cryobox.particles import Extracted, Particles
from cryobox.paths import Start

__all__ = ["OtherFamily"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherFamily:
    """What the particles of a run are converted with.

    Parameters
    ----------
    particles, micrographs
    native : str
        The family in which the picks' own columns are written: "star" or "cs".
    home : Path
        The folder of the tables.
    start : Start
        Where names in tables start.
    """

    particles: Particles
    micrographs: Micrographs
    native: str
    home: Path
    start: Start

    @property
    def suffix(self) -> str:
        """Of the table that is written."""
        return ".star" if self.native == "cs" else ".cs"

    def write(self, path: Path, extracted: Extracted) -> tuple[str, ...]:
        """Write the table, and the group beside a `.cs`: what `cryobox convert` makes of the native one. Warnings."""
        name = str(self.home / f"{path.stem}.{self.native}")
        if self.native == "cs":
            star, done = to_star(name, build_particles(self.particles, self.micrographs, extracted), self._places())
            if extracted.steps.ctf is not None:  # which the `.cs` could not say
                flags = {
                    tag: [text] * len(star.optics[GROUP]) for tag, text in image_flags(extracted.steps.ctf).items()
                }
                star = replace(star, optics={**star.optics, **flags})
            write_star(path, star)
            return self._told(done)
        native = path.with_name(".native.star")  # its text is what the other family is made of
        table_writer("star").write_particles(native, self.particles, self.micrographs, extracted)
        star = replace(read_star(native), source=name)
        native.unlink()
        steps = extracted.steps
        stored = {"blob/sign": 1.0 if steps.invert else -1.0, DIVISOR_FIELD: steps.divisor}
        table, done = to_cs(star, self._places(), lambda: self._grounds(extracted), stored=stored)
        write_table(path, table)
        write_group(path.with_suffix(".csg"), path.name, table)
        return self._told(done)

    def _told(self, done: Converted) -> tuple[str, ...]:
        return tuple(f"{self.suffix} tables: {text}" for text in done.warnings)

    def _places(self) -> Places:
        table = self.home / f"particles.{self.native}"
        return Places(cs_folder=self.home.resolve(), base=self.start.base.resolve(), search=self.start.places(table))

    def _grounds(self, extracted: Extracted) -> Grounds:
        """What the run knows of the micrographs, row by row."""
        uids = self.micrographs.uids
        return Grounds(
            shape=extracted.shape[extracted.micrograph],
            pixel_size=extracted.pixel_size[extracted.micrograph],
            uid=None if uids is None else uids[extracted.micrograph],
        )
