"""Options of helices: tubes cut into segments, and how segments are recentered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from cryobox.bounds import LARGEST_NUMBER, check_integer, check_positive
from cryobox.declared import HELICES, option
from cryobox.errors import OptionError
from cryobox.groups.words import HelicalRecenter, Helix, one_of

__all__ = ["Helices"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Helices:
    """What picks say of helices."""

    helix: Helix | None = option(
        "--helix", default=None, help="Picks are ends of tubes, segments, or ends of tubes cut whole", panel=HELICES,
        shown="no helices", check=one_of(Helix),
    )  # fmt: skip
    helical_rise: float | None = option(
        "--helical-rise", default=None, help="Å from one asymmetric unit to the next", panel=HELICES,
        check=partial(check_positive, unit=" of Å"),
    )  # fmt: skip
    helical_nr_asu: int | None = option(
        "--helical-nr-asu", default=None, help="Asymmetric units from one segment to the next", panel=HELICES,
        shown="1", check=partial(check_integer, lowest=1, highest=LARGEST_NUMBER),
    )  # fmt: skip
    inter_box_distance: float | None = option(
        "--inter-box-distance", default=None, help="Å from one segment to the next, in place of these", panel=HELICES,
        check=partial(check_positive, unit=" of Å"),
    )  # fmt: skip
    helical_bimodal: bool | None = option(
        "--helical-bimodal/--no-helical-bimodal", default=None, help="Psi priors may be off by half a turn",
        shown="as the table, else yes", panel=HELICES,
    )  # fmt: skip
    helical_recenter: HelicalRecenter | None = option(
        "--helical-recenter", default=None, help="Move boxes across the tube, freely, or not", panel=HELICES,
        shown="across", check=one_of(HelicalRecenter),
    )  # fmt: skip

    @property
    def segment_step_angstrom(self) -> float | None:
        """Å from one segment to the next, where tubes are to be cut."""
        if self.inter_box_distance is not None:
            return self.inter_box_distance
        return None if self.helical_rise is None else (self.helical_nr_asu or 1) * self.helical_rise

    def check_helices(self, *, recenter: bool) -> None:
        """Compare the fields with each other, and with whether boxes are recentered.

        Raises
        ------
        OptionError
        """
        steps = {
            "--helical-rise": self.helical_rise,
            "--helical-nr-asu": self.helical_nr_asu,
            "--inter-box-distance": self.inter_box_distance,
        }
        given = [name for name, value in steps.items() if value is not None]
        if self.helix is None:
            others = {"--helical-bimodal": self.helical_bimodal, "--helical-recenter": self.helical_recenter}
            given += [name for name, value in others.items() if value is not None]
            if given:
                raise OptionError(f"{given[0]} is about helices; say what the picks are with --helix")
            return
        if self.helix != "ends" and given:
            raise OptionError(f"{given[0]} says where tubes are cut; it goes with --helix ends, not {self.helix}")
        if self.helix == "ends" and self.segment_step_angstrom is None:
            raise OptionError(
                "--helix ends needs the distance of segments: --helical-rise Å with --helical-nr-asu N, or "
                "--inter-box-distance Å"
            )
        if self.inter_box_distance is not None and len(given) > 1:
            raise OptionError(f"give --inter-box-distance or {given[0]}, not both")
        if self.helical_recenter is not None and self.helix != "segments":
            raise OptionError("--helical-recenter moves boxes of segments; it goes with --helix segments")
        if self.helical_recenter in ("across", "free") and not recenter:
            raise OptionError(
                f"--helical-recenter {self.helical_recenter} contradicts --no-recenter and --reset-offsets"
            )
