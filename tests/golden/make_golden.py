"""Makes the golden files: small deterministic inputs, and what RELION's relion_preprocess makes of them.

`python tests/golden/make_golden.py` (with RELION on PATH) writes the folder `relion-3.1.3` anew; the tests import this
file for the inputs and the cases, so that only RELION's outputs are stored. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CASES",
    "GOLDEN",
    "MICROGRAPHS",
    "PICKS",
    "REEXTRACTED",
    "Case",
    "Micrograph",
    "Reextracted",
    "digest",
    "make_micrograph",
    "relion_version",
    "run_relion",
    "write_inputs",
]

GOLDEN = Path(__file__).parent / "relion-3.1.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Micrograph:
    """One synthetic micrograph: its seed makes its pixels."""

    stem: str
    seed: int
    shape: tuple[int, int]  # (ny, nx)
    optics_group: int
    pixel_size: float  # Å
    defocus_u_angstrom: float

    @property
    def name(self) -> str:
        """As the tables write it, relative to the project's root."""
        return f"Micrographs/{self.stem}.mrc"


# Two optics groups that differ in pixel size; neither shape is square. "large" has room for a box of 400.
MICROGRAPHS = (
    Micrograph(stem="first", seed=11, shape=(320, 360), optics_group=1, pixel_size=1.25, defocus_u_angstrom=15000.0),
    Micrograph(stem="second", seed=12, shape=(336, 304), optics_group=2, pixel_size=0.8, defocus_u_angstrom=21000.0),
    Micrograph(stem="large", seed=13, shape=(432, 440), optics_group=1, pixel_size=1.25, defocus_u_angstrom=9000.0),
)

# Picks as text, exactly as the pick files hold them: (x, y). One set per suffix, micrographs by stem.
# Of every pair some are whole, some just below the next pixel, so that truncation and rounding are told apart.
PICKS: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "_picks.star": {
        "first": (("100.000000", "90.000000"), ("250.900000", "160.499000"), ("60.500000", "270.999000")),
        "second": (("150.250000", "80.750000"), ("41.000000", "300.000000"), ("271.999000", "32.001000")),
    },
    # Boxes of 48 over every edge and two corners; the last two fit exactly. Negative centers truncate toward zero.
    "_edges.star": {
        "first": (
            ("5.000000", "100.000000"),
            ("355.700000", "100.000000"),
            ("180.000000", "3.500000"),
            ("180.000000", "318.000000"),
            ("2.000000", "2.000000"),
            ("359.000000", "319.000000"),
            ("-3.700000", "200.000000"),
            ("24.000000", "24.000000"),
            ("336.000000", "296.000000"),
        ),
    },
    "_large.star": {"large": (("215.600000", "220.200000"), ("220.000000", "216.000000"))},
    # EMAN1 boxes: corner x, corner y; sizes are below. Two are of odd size, one of them with fractional corners.
    "_eman.box": {
        "first": (("76", "66"), ("226", "136"), ("100.75", "60.5")),
        "second": (("126", "56"),),
    },
    # Plain text: x and y of the center.
    "_plain.txt": {
        "first": (("100", "90"), ("250.9", "160.499")),
        "second": (("150.25", "80.75"),),
    },
}
BOX_SIZES = {("first", 1): 47, ("first", 2): 47}  # by micrograph and number of the box; the others have EMAN_SIZE
EMAN_SIZE = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Reextracted:
    """One row of the table that is re-extracted; `x`, `y` and the origins are the text in it."""

    stem: str
    x: str
    y: str
    origin_x_angstrom: str
    origin_y_angstrom: str


def _rows(stem: str, *rows: tuple[str, str, str, str]) -> tuple[Reextracted, ...]:
    return tuple(Reextracted(stem=stem, x=x, y=y, origin_x_angstrom=ox, origin_y_angstrom=oy) for x, y, ox, oy in rows)


# Shifts in Å on pixels of 1.25 Å ("first") and 0.8 Å ("second"); the particles were binned by 2 in both groups.
REEXTRACTED = (
    *_rows(
        "first",
        ("100.000000", "90.000000", "0.000000", "0.000000"),
        ("120.400000", "95.900000", "0.375000", "-0.375000"),  # |s| = 0.3: stays
        ("140.000000", "150.000000", "4.062500", "-9.687500"),  # s = 3.25, -7.75
        ("160.700000", "210.300000", "-4.062500", "9.687500"),
        ("200.000000", "120.000000", "1.875000", "-1.875000"),  # s = 1.5, -1.5: halves, away from zero
        ("210.250000", "130.750000", "3.125000", "-3.125000"),  # s = 2.5, -2.5
        ("220.000000", "140.000000", "15.000000", "-25.000000"),  # whole pixels
        ("230.000000", "150.000000", "0.750000", "-0.750000"),  # s = 0.6: moves by one
        ("240.999000", "160.001000", "1.000000", "-6.789000"),
        ("250.000000", "170.000000", "0.625000", "-0.625000"),  # s = 0.5, -0.5 exactly: the deliberate difference
    ),
    *_rows(
        "second",
        ("150.250000", "80.750000", "1.200000", "-2.000000"),  # s = 1.5, -2.5, neither exact in binary
        ("100.000000", "200.000000", "-3.333000", "5.555000"),
        ("60.000000", "60.600000", "0.390000", "-0.390000"),  # |s| = 0.4875
        ("222.222000", "111.111000", "-12.345000", "-0.410000"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run of relion_preprocess.

    `options` is what follows the input and output options; `suffix` names the pick files, or is empty where
    REEXTRACTED is the input. The other fields say the same in plain values.
    """

    name: str
    options: str
    suffix: str = ""
    box: int
    size: int
    normalize: bool = True
    ramp: bool = True
    invert: bool = False
    background_radius: int | None = None

    @property
    def command(self) -> list[str]:
        """Run in the folder that `write_inputs` has filled."""
        source = f"--coord_dir ./ --coord_suffix {self.suffix}" if self.suffix else "--reextract_data_star aligned.star"
        table = f"micrographs{self.suffix.removesuffix('.star').replace('.', '_')}.star"
        folder = f"Extract/{self.name}"
        return shlex.split(
            f"relion_preprocess --i {table} {source} --part_star {folder}/particles.star --part_dir {folder}/ "
            f"--extract {self.options}"
        )


CASES = (
    Case(name="normalized", suffix="_picks.star", box=64, size=64, options="--extract_size 64 --norm --bg_radius 24"),
    Case(
        name="no_ramp",
        suffix="_picks.star",
        box=48,
        size=48,
        ramp=False,
        options="--extract_size 48 --norm --no_ramp --bg_radius 18",
    ),
    Case(
        name="radius",
        suffix="_picks.star",
        box=40,
        size=40,
        background_radius=10,
        options="--extract_size 40 --norm --bg_radius 10",
    ),
    Case(
        name="cropped",
        suffix="_picks.star",
        box=64,
        size=32,
        invert=True,
        options="--extract_size 64 --scale 32 --norm --bg_radius 12 --invert_contrast",
    ),
    Case(
        name="cropped_raw",
        suffix="_picks.star",
        box=60,
        size=28,
        normalize=False,
        options="--extract_size 60 --scale 28",
    ),
    Case(name="edges_raw", suffix="_edges.star", box=48, size=48, normalize=False, options="--extract_size 48"),
    Case(
        name="edges_cropped",
        suffix="_edges.star",
        box=48,
        size=24,
        options="--extract_size 48 --scale 24 --norm --bg_radius 9",
    ),
    Case(name="eman_box", suffix="_eman.box", box=40, size=40, options="--extract_size 40 --norm --bg_radius 15"),
    Case(name="plain_text", suffix="_plain.txt", box=40, size=40, options="--extract_size 40 --norm --bg_radius 15"),
    Case(name="large", suffix="_large.star", box=256, size=256, options="--extract_size 256 --norm --bg_radius 96"),
    Case(
        name="large_cropped",
        suffix="_large.star",
        box=400,
        size=128,
        invert=True,
        options="--extract_size 400 --scale 128 --norm --bg_radius 48 --invert_contrast",
    ),
    Case(
        name="recentered",
        box=36,
        size=36,
        options="--recenter --ref_angpix 2.5 --extract_size 36 --norm --bg_radius 13",
    ),
    Case(
        name="not_recentered",
        box=32,
        size=16,
        options="--extract_size 32 --scale 16 --norm --bg_radius 6",
    ),
)


def make_micrograph(micrograph: Micrograph) -> NDArray[np.float32]:
    """Pixels of one synthetic micrograph: a gray level of 100, a plane, noise of sd 10 and dark bumps.

    Only the bit generator's raw integers and exactly rounded arithmetic are used, so that every platform and every
    NumPy makes the same bytes; `SHA256` beside the golden files has their digests.
    """
    ny, nx = micrograph.shape
    bits = np.random.PCG64(micrograph.seed).random_raw(ny * nx).reshape(ny, nx)
    # The sum of four 16-bit numbers is near enough to a normal deviate: mean 131070, sd 37837.
    noise = sum(((bits >> np.uint64(16 * part)) & np.uint64(0xFFFF)).astype(np.int64) for part in range(4)) - 131070
    y, x = np.mgrid[0:ny, 0:nx]
    image = 100 + noise / 4096 + (3 * x - 2 * y) / 128
    for number in range(12):
        center_y, center_x = (37 + 83 * number) % ny, (53 + 131 * number) % nx
        bump = np.maximum(0, 1 - ((y - center_y) ** 2 + 2 * (x - center_x) ** 2) / 400)
        image = image - 20 * bump * bump
    pixels: NDArray[np.float32] = image.astype(np.float32)
    return pixels


def digest(image: NDArray[np.float32]) -> str:
    """SHA-256 of the pixels in little-endian order."""
    return hashlib.sha256(image.astype("<f4").tobytes()).hexdigest()


def _write_mrc(path: Path, image: NDArray[np.float32], pixel_size: float) -> None:
    """A minimal MRC2014 file, so that making the inputs needs nothing but NumPy."""
    ny, nx = image.shape
    words = np.zeros(256, "<i4")
    floats = words.view("<f4")
    words[0:4] = nx, ny, 1, 2
    words[7:10] = nx, ny, 1
    floats[10:16] = nx * pixel_size, ny * pixel_size, pixel_size, 90, 90, 90
    words[16:19] = 1, 2, 3
    floats[19:22] = image.min(), image.max(), image.mean()
    words[27] = 20140
    words[52:54] = np.frombuffer(b"MAP \x44\x44\x00\x00", "<i4")
    floats[54] = image.std()
    path.write_bytes(words.tobytes() + image.astype("<f4").tobytes())


def _loop(name: str, tags: tuple[str, ...], rows: list[str]) -> str:
    header = "".join(f"_rln{tag} #{number}\n" for number, tag in enumerate(tags, start=1))
    return f"\n# version 30001\n\ndata_{name}\n\nloop_\n{header}{''.join(row + chr(10) for row in rows)}\n"


def _optics(*, particles: bool) -> str:
    tags: tuple[str, ...] = (
        "OpticsGroupName",
        "OpticsGroup",
        "MicrographPixelSize",
        "Voltage",
        "SphericalAberration",
        "AmplitudeContrast",
    )
    rows = [f"group{group} {group} {size} 300.000000 2.700000 0.100000" for group, size in ((1, 1.25), (2, 0.8))]
    if particles:
        tags = (*tags, "MicrographOriginalPixelSize", "ImagePixelSize", "ImageSize", "ImageDimensionality")
        rows = [f"{row} {size} {2 * size} 32 2" for row, size in zip(rows, (1.25, 0.8), strict=True)]
    return _loop("optics", tags, rows)


_CTF_TAGS = ("DefocusU", "DefocusV", "DefocusAngle")


def _ctf(micrograph: Micrograph) -> str:
    return f"{micrograph.defocus_u_angstrom:.6f} {micrograph.defocus_u_angstrom - 400:.6f} 35.000000"


def write_inputs(root: Path) -> None:
    """Write micrographs, their tables, the picks in every form and the table to re-extract under `root`."""
    folder = root / "Micrographs"
    folder.mkdir(parents=True)
    for micrograph in MICROGRAPHS:
        _write_mrc(folder / f"{micrograph.stem}.mrc", make_micrograph(micrograph), micrograph.pixel_size)

    by_stem = {micrograph.stem: micrograph for micrograph in MICROGRAPHS}
    for suffix in ("", *PICKS):
        # RELION 3.1 stops at a micrograph without a pick file, so each set of picks has its own table of micrographs.
        stems = PICKS[suffix] if suffix else {row.stem: () for row in REEXTRACTED}
        rows = [f"{by_stem[stem].name} {by_stem[stem].optics_group} {_ctf(by_stem[stem])}" for stem in stems]
        table = _optics(particles=False) + _loop("micrographs", ("MicrographName", "OpticsGroup", *_CTF_TAGS), rows)
        (root / f"micrographs{suffix.removesuffix('.star').replace('.', '_')}.star").write_text(table)

    for suffix, sets in PICKS.items():
        for stem, picks in sets.items():
            if suffix.endswith(".star"):
                text = _loop("", ("CoordinateX", "CoordinateY"), [f"{x} {y}" for x, y in picks])
            elif suffix.endswith(".box"):
                sizes = [BOX_SIZES.get((stem, number), EMAN_SIZE) for number in range(len(picks))]
                text = "".join(f"{x}\t{y}\t{n}\t{n}\n" for (x, y), n in zip(picks, sizes, strict=True))
            else:
                text = "".join(f"{x} {y}\n" for x, y in picks)
            (folder / f"{stem}{suffix}").write_text(text)

    pose = ("CoordinateX", "CoordinateY", "OriginXAngst", "OriginYAngst", "AngleRot", "AngleTilt", "AnglePsi")
    tags = ("MicrographName", "ImageName", "OpticsGroup", *pose, *_CTF_TAGS)
    rows = []
    for number, row in enumerate(REEXTRACTED, start=1):
        micrograph = by_stem[row.stem]
        rows.append(
            f"{micrograph.name} {number:06d}@Extract/earlier/{row.stem}.mrcs {micrograph.optics_group} {row.x} {row.y} "
            f"{row.origin_x_angstrom} {row.origin_y_angstrom} 10.000000 20.000000 30.000000 {_ctf(micrograph)}"
        )
    (root / "aligned.star").write_text(_optics(particles=True) + _loop("particles", tags, rows))


def relion_version() -> str | None:
    """The version of the relion_preprocess on PATH, e.g. "3.1.3"; None where there is none."""
    if shutil.which("relion_preprocess") is None:
        return None
    answer = subprocess.run(["relion_preprocess", "--version"], capture_output=True, text=True, check=True).stdout
    return answer.splitlines()[0].removeprefix("RELION version:").split()[0]


def run_relion(case: Case, root: Path) -> Path:
    """Run one case in `root`, where `write_inputs` has been; return the folder of its outputs."""
    folder = root / "Extract" / case.name
    folder.mkdir(parents=True)
    done = subprocess.run(case.command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (folder / "particles.star").exists():
        raise RuntimeError(f"{shlex.join(case.command)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return folder


def main() -> None:
    """Write every golden file anew."""
    parser = argparse.ArgumentParser(description="Run RELION on the small inputs and keep what it makes of them.")
    parser.add_argument("--out", type=Path, default=GOLDEN, help="folder to replace (default: %(default)s)")
    out: Path = parser.parse_args().out
    version = relion_version()
    if version is None or not version.startswith("3.1."):
        raise SystemExit(f"make_golden.py needs RELION 3.1 on PATH; found {version}")

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_inputs(root)
        for case in CASES:
            made = run_relion(case, root)
            target = out / case.name
            target.mkdir()
            shutil.copy(made / "particles.star", target)
            for stack in sorted(made.glob("Micrographs/*.mrcs")):
                shutil.copy(stack, target)
    commands = "".join(shlex.join(case.command) + "\n" for case in CASES)
    (out / "commands.txt").write_text(
        f"# relion_preprocess {version}, in the folder that write_inputs() filled\n{commands}"
    )
    digests = "".join(f"{digest(make_micrograph(one))}  {one.stem}\n" for one in MICROGRAPHS)
    (out / "SHA256").write_text(digests)


if __name__ == "__main__":
    main()
