"""The figures of docs/proof.md, from what bench.proof left: `python -m bench.proof_figures --data FOLDER`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import mrcfile
import numpy as np

from bench.proof import BOX, ITERATIONS, PIXEL, report

__all__ = ["main"]

COLORS = {"RELION": "#d1495b", "cryobox": "#30638e", "cryobox --subpixel": "#66a182"}
STYLES = {"RELION": "-", "cryobox": "--", "cryobox --subpixel": "-"}  # the first two lie on each other
FIGURES = Path(__file__).parent.parent / "docs" / "figures"
MAPS = {
    "truth": "truth.mrc",
    "start": "start.mrc",
    "RELION": "Refine/first_relion_1",
    "cryobox": "Refine/first_1",
    "again, RELION": "Refine/again_relion_1",
    "again, cryobox": "Refine/again_1",
    "again, --subpixel": "Refine/again_subpixel_1",
}


def main() -> None:
    """Print the table, draw both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that bench.proof filled")
    arguments = parser.parse_args()
    newest = max((Path(__file__).parent / "results").glob("proof-*.json"))
    found = json.loads(newest.read_text())
    report(found["figures"])
    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "cryobox", "font.size": 9, "svg.fonttype": "none"}
    draw_curves(found, FIGURES / "proof-fsc.svg")
    draw_maps(arguments.data, FIGURES / "proof-maps.png")


def draw_curves(found: dict[str, Any], path: Path) -> None:
    """Correlation with the density, one line a seed, first extraction and second side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    frequency = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    for name, seeds in found["figures"].items():
        arm, when = name.rsplit(", ", 1)
        axis = axes[int(when == "again")]
        for i, one in enumerate(seeds):
            axis.plot(
                frequency, one["correlation"], color=COLORS[arm], lw=1.4, ls=STYLES[arm], label=None if i else arm
            )
    for axis, title in zip(axes, ("first extraction", "extracted again at the refined places"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("resolution, 1/Å")
        axis.axhline(0.5, color="0.7", lw=0.8)
        axis.set_ylim(-0.3, 1.03)
        axis.legend(frameon=False)
    axes[0].set_ylabel("Fourier shell correlation with the truth")
    figure.savefig(path, metadata={"Date": None})


def draw_maps(data: Path, path: Path) -> None:
    """The middle section of every map, in one row."""
    figure, axes = plt.subplots(1, len(MAPS), figsize=(9, 1.6), layout="constrained")
    for axis, (name, place) in zip(axes, MAPS.items(), strict=True):
        file = data / place
        file = file if file.suffix == ".mrc" else file / f"run_it{ITERATIONS:03d}_class001.mrc"
        section = mrcfile.read(file)[BOX // 2]
        low, high = np.percentile(section, (2, 99.8))
        axis.imshow(section, cmap="gray", vmin=low, vmax=high, origin="lower")
        axis.set_title(name, fontsize=8)
        axis.axis("off")
    figure.savefig(path, dpi=160, metadata={"Software": None})


if __name__ == "__main__":
    main()
