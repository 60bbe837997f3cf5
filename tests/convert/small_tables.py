"""Small tables of given values, and changes to them as other programs make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

from convert.random_tables import Rows, blocks, save, write_star
from cryobox.convert import Converted, convert_particles
from cryobox.formats.cs_table import read_table


def convert(source: str, target: str, **options: Any) -> Converted:
    return convert_particles(source, target, overwrite=True, allow_missing=True, **options)


def star(folder: Path, rows: list[dict[str, str]], **optics: str) -> None:
    group = {"_rlnOpticsGroup": "1", "_rlnOpticsGroupName": "g", "_rlnImagePixelSize": "1.06", "_rlnImageSize": "32"}
    filled = [{"_rlnImageName": f"{i + 1}@s.mrcs", "_rlnOpticsGroup": "1"} | row for i, row in enumerate(rows)]
    write_star(folder / "a.star", [group | {f"_{k}": v for k, v in optics.items()}], filled)


def cs(folder: Path, n: int, *fields: tuple[str, Any, Any]) -> np.ndarray:
    kinds = [(name, *(kind if isinstance(kind, tuple) else (kind,))) for name, kind, _ in fields]
    table = np.zeros(n, [("uid", "<u8"), ("blob/path", "S9"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
                         ("blob/psize_A", "<f4"), *kinds])  # fmt: skip
    table["uid"], table["blob/path"], table["blob/shape"], table["blob/psize_A"] = range(1, n + 1), b">s.mrc", 32, 1.06
    for name, _, values in fields:
        table[name] = values
    save(folder / "a.cs", table)
    return table


def micrograph(path: Path, shape: tuple[int, int], pixel_size: float) -> None:
    path.parent.mkdir(exist_ok=True)
    with mrcfile.new(path) as file:
        file.set_data(np.zeros(shape, np.float32))
        file.voxel_size = pixel_size


def the_rest(path: Path) -> bytes:
    """The block that describes the fields."""
    data = path.read_bytes()
    return b"\n" + data[data.index(b"data_cryosparc") :] if b"data_cryosparc" in data else b""


def change_star(folder: Path, source: str, target: str, change: Callable[[Rows, Rows], None]) -> None:
    """A STAR file with other rows and groups; the other blocks stay."""
    found = blocks(folder / source)
    groups, rows = found["optics"][1], found["particles"][1]
    change(groups, rows)
    write_star(folder / target, groups, rows, the_rest(folder / source))


def change_cs(folder: Path, source: str, target: str, **values: Any) -> None:
    """A `.cs` with other values; `group__field` is the field `group/field`."""
    table = read_table(folder / source)
    for name, value in values.items():
        table[name.replace("__", "/")] = value
    save(folder / target, table)
