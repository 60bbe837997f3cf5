"""The smaller commands: boxes, report, view, info, verify, demo."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cryobox.bounds import LARGEST_BOX, check_integer
from cryobox.boxes import FAST_BOXES, is_fast, nearby, propose
from cryobox.cli.checks import check_picks
from cryobox.cli.reports import write_report
from cryobox.display import choose_display, warn
from cryobox.errors import OptionError
from cryobox.given import Given
from cryobox.gpu import describe_devices
from cryobox.options import Recipe, RunOptions

__all__ = ["boxes", "demo", "info", "report", "verify", "view"]


def boxes(
    size: Annotated[int | None, typer.Argument(help="A box size to look up")] = None,
    diameter: Annotated[float | None, typer.Option(help="Longest diameter of a particle in Å")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Å per pixel of the micrographs")] = None,
) -> None:
    """List box sizes that are fast to transform, or what those next to SIZE cost, or sizes for a particle.

    cryobox boxes
    cryobox boxes 390
    cryobox boxes --diameter 180 --pixel-size 0.85
    """
    if diameter is not None:
        if pixel_size is None:
            raise OptionError("--diameter is in Å; give --pixel-size, the Å per pixel of the micrographs, with it")
        for reason in propose(diameter, pixel_size).reasons:
            print(reason)
        return
    if size is None:
        print(" ".join(map(str, FAST_BOXES)))
        return
    if size < 2 or size % 2:
        near = [other for other in nearby(size, 1) if other != size]
        raise OptionError(
            f"box must be an even number of pixels, at least 2; got {size} "
            f"(nearest fast sizes: {', '.join(map(str, near))})"
        )
    check_integer("box", size, 2, LARGEST_BOX, " pixels")
    costs = _measure_costs(nearby(size))
    print("box   on the list  time of a crop to half, per pixel, beside the best here")
    best = min(cost / side**2 for side, cost in costs.items())
    for side, cost in costs.items():
        note = "  <- asked for" if side == size else ""
        print(f"{side:<5} {'yes' if is_fast(side) else 'no':<12} {cost / side**2 / best:.2f}{note}")


def _measure_costs(sizes: tuple[int, ...]) -> dict[int, float]:
    """Seconds of one Fourier crop to about half, on this machine: the least of several turns, sizes taking turns."""
    import time

    import numpy as np

    import cryobox

    rng = np.random.default_rng(0)
    images = {size: rng.standard_normal((2, size, size), dtype=np.float32) for size in sizes}
    costs = dict.fromkeys(sizes, float("inf"))
    for _ in range(6):
        for size, stack in images.items():
            began = time.perf_counter()
            cryobox.fourier_crop(stack, max(2, size // 4 * 2))
            costs[size] = min(costs[size], time.perf_counter() - began)
    return costs


def report(folder: Annotated[Path, typer.Argument(help="Output folder of a run, also while it goes on")]) -> None:
    """Write FOLDER/report.html: counts, pictures, histograms and one row for each micrograph, in one file."""
    from cryobox import reporting

    print(reporting.write_report(folder))


def view(
    sources: Annotated[
        list[Path], typer.Argument(help="An --out, a table (.star, .cs, .csg), stacks, or a micrograph")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a PNG instead")] = None,
    images: Annotated[int, typer.Option("--images", "-n", help="How many, evenly spread")] = 40,
    lowpass: Annotated[float, typer.Option(help="Å: leave out finer detail, 0 for none")] = 20.0,
    contrast: Annotated[float, typer.Option(help="Percent of the pixels that are black, and white")] = 0.5,
    enlarge: Annotated[int | None, typer.Option(help="Sides of a pixel; else as is legible")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="The row of each image below it")] = False,
    sort: Annotated[
        str | None, typer.Option(help="score, or a column: highest first; -NAME: lowest", metavar="NAME")
    ] = None,
    picks: Annotated[str | None, typer.Option(help="Rings around these, on a micrograph", metavar="TABLE|DIR")] = None,
    diameter: Annotated[float | None, typer.Option(help="Of the rings, Å")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Å per pixel, where the header does not say it")] = None,
    root: Annotated[Path | None, typer.Option(help="Where relative paths in tables start")] = None,
) -> None:
    """Show particles, or a micrograph, in the terminal or as a PNG.

    cryobox view out --out particles.png
    cryobox view out/particles.star --sort score --labels --out best.png
    cryobox view micrograph.mrc --picks picks.star --diameter 180 --out picks.png
    """
    from cryobox.reporting import viewing

    look = viewing.Look(
        count=images, lowpass=lowpass, contrast=contrast, enlarge=enlarge, labels=labels, sort=sort, picks=picks,
        diameter=diameter, pixel_size=pixel_size,
    )  # fmt: skip
    if out is not None:
        print(viewing.write_picture(sources, out, look, root))
        return
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in viewing.draw_in_terminal(sources, look, color=color, root=root):
        print(line)


def info(
    file: Annotated[Path | None, typer.Argument(help="A micrograph, a stack, a table, picks, or a folder")] = None,
    devices: Annotated[bool, typer.Option("--devices", help="List the GPUs of this host, or say why none")] = False,
    micrographs: Annotated[
        str | None, typer.Option("--micrographs", "-m", help="Check how the picks in FILE fit these")
    ] = None,
    box: Annotated[int, typer.Option(help="Box for that check, pixels: about 1.5 x the particle")] = 256,
    root: Annotated[Path | None, typer.Option(help="Where relative paths in tables start")] = None,
) -> None:
    """Say what FILE is: the header of an image, a table's rows and columns, picks and where they lie, a folder, a run.

    With --micrographs: whether the picks in FILE fit these as given, or better flipped or swapped.
    """
    if file is None and not devices:
        raise OptionError("info wants a FILE, or --devices")
    for line in describe_devices() if devices else []:
        print(line)
    if file is None:
        return
    from cryobox.formats import describe

    for line in describe(file):
        print(line)
    if micrographs is not None:
        warn(check_picks(Given.of(file, micrographs, root), Recipe(box=box)))


def verify(
    folder: Annotated[Path, typer.Argument(help="Output folder of a finished run")],
    sample: Annotated[int, typer.Option(help="Images to recompute, for each stored size")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="Recompute every image")] = False,
    seed: Annotated[int, typer.Option(help="Of the random sample")] = 0,
) -> None:
    """Recompute images in float64 from the micrographs; compare tables, stacks, ledger. Exit code 1 if they differ."""
    from cryobox.verification import verify as check

    found = check(folder, sample=sample, everything=everything, seed=seed)
    for problem in found.problems:
        print(f"cryobox: {problem}", file=sys.stderr)
    print(f"checked {found.rows} table rows, recomputed {found.images} images: {len(found.problems) or 'no'} problems")
    print(f"largest difference: {found.worst:.2f} of what is allowed")
    if found.removed:
        print(f"{found.removed} stacks were removed by cryobox compact; their images were not compared")
    raise typer.Exit(1 if found.problems else 0)


def demo(folder: Annotated[Path, typer.Argument(help="Folder to write to")] = Path("demo")) -> None:
    """Simulate three micrographs, extract their particles at two sizes, and show what was made."""
    from cryobox.job import run
    from cryobox.reporting import viewing
    from cryobox.simulate import make_dataset

    dataset = make_dataset(folder)
    print(f"simulated {len(dataset.images)} micrographs with {dataset.count} picks in {folder}/")
    print(
        f"$ cryobox extract {dataset.picks} -m {dataset.micrographs} -o {folder / 'extract'} --root {folder} "
        f"--box 160 --fcrop 128 --small 64"
    )
    display = choose_display(root=str(folder))
    try:
        result = run(
            dataset.picks,
            micrographs=dataset.micrographs,
            out=folder / "extract",
            recipe=Recipe(box=160, sizes=(128, 64)),
            root=folder,
            options=RunOptions(overwrite=True),
            on_plan=display.plan,
            on_progress=display.progress,
        )
    finally:
        display.close()
    display.end(result)
    written = write_report(result.out, asked=False, say=True)
    montage = folder / "extract" / "montage.png"
    viewing.write_picture([result.out], montage, viewing.Look(), folder)
    print(f"look at: {montage}")
    if written is not None:
        print(f"         {written}")
    raise typer.Exit(result.exit_code)
