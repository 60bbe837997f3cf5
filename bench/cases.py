"""The frozen cases of the benchmark: what is cut from what. Figures are comparable only while these do not change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

__all__ = ["CASES", "Case", "DataSpec", "case"]

MicrographDtype = Literal["float32", "float16", "uint16", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """A generated data set.

    Parameters
    ----------
    name : str
        Folder of the tables; the micrographs' folder is named by shape and dtype and shared.
    micrographs : int
        How many, unless the caller asks for another number.
    shape : tuple of int
        (ny, nx) of each micrograph.
    dtype : str
        Of the micrographs' pixels.
    picks : int
        Per micrograph.
    margin : int
        Pixels between a pick and the edge of its micrograph, so that no box of the cases is refused.
    shifts : bool
        Whether the picks bear the shifts of an earlier refinement (25 columns, fractional coordinates).
    """

    name: str
    micrographs: int
    shape: tuple[int, int]
    dtype: MicrographDtype
    picks: int
    margin: int
    shifts: bool = False

    @property
    def micrograph_bytes(self) -> int:
        """Size of one micrograph's file."""
        item = {"float32": 4, "float16": 2, "uint16": 2, "int8": 1}[self.dtype]
        return 1024 + self.shape[0] * self.shape[1] * item


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measured job.

    Parameters
    ----------
    name, title : str
    data : DataSpec
    box : int
    sizes : tuple of int
        Stored sides, largest first.
    dtype : {"float32", "float16"}
    invert : bool
    kind : {"run", "memory"}
        A whole run from files to files, or `cryobox.extract` on an array.
    goals : dict of str to float
        Limits of the ratio ours / arm, by arm; see `endtoend.ratios`.
    """

    name: str
    title: str
    data: DataSpec
    box: int
    sizes: tuple[int, ...]
    dtype: Literal["float32", "float16"] = "float32"
    invert: bool = False
    kind: Literal["run", "memory"] = "run"
    goals: dict[str, float] = field(default_factory=dict)

    @property
    def crops(self) -> bool:
        """Whether any stored size differs from the box, so that there is a transform at all."""
        return any(size != self.box for size in self.sizes)

    @property
    def stack_bytes(self) -> tuple[int, ...]:
        """Bytes of one micrograph's stack, for each stored size."""
        item = 2 if self.dtype == "float16" else 4
        return tuple(1024 + self.data.picks * size * size * item for size in self.sizes)

    def with_micrographs(self, micrographs: int | None) -> Case:
        """The same case on another number of micrographs."""
        return self if micrographs is None else replace(self, data=replace(self.data, micrographs=micrographs))


K2 = DataSpec(name="k2", micrographs=48, shape=(4096, 4096), dtype="float32", picks=300, margin=210)
K3 = DataSpec(name="k3", micrographs=48, shape=(4092, 5760), dtype="float16", picks=300, margin=210)
SPARSE = DataSpec(name="sparse", micrographs=48, shape=(4096, 4096), dtype="float32", picks=5, margin=210)
COUNTS = DataSpec(name="counts", micrographs=48, shape=(4096, 4096), dtype="uint16", picks=300, margin=210)
# Small micrographs, because here the table is the work: 1,000,000 rows on 10,000 real files of 64 kB.
TABLE = DataSpec(name="table", micrographs=10_000, shape=(256, 256), dtype="int8", picks=100, margin=24, shifts=True)

B = Case(
    name="B",
    title="400 -> 128, normalized, inverted",
    data=K2,
    box=400,
    sizes=(128,),
    invert=True,
    goals={"floors": 1.5, "relion": 1 / 7, "relion mpi": 1 / 4, "one worker / relion": 1 / 4.5},
)

CASES: dict[str, Case] = {
    one.name: one
    for one in (
        Case(
            name="A",
            title="256, normalized, no crop",
            data=K2,
            box=256,
            sizes=(256,),
            goals={"copy floor": 1.5, "relion": 1 / 10},
        ),
        B,
        replace(B, name="B16", title="B, stored as float16", dtype="float16", goals={"case B": 1.0}),
        replace(B, name="B64", title="B and 64 in the same pass", sizes=(128, 64), goals={"case B": 1.15}),
        Case(
            name="K3",
            title="5760 x 4092 float16, 384 -> 128, stored as float16",
            data=K3,
            box=384,
            sizes=(128,),
            dtype="float16",
            invert=True,
        ),
        Case(name="small", title="256 -> 64, normalized", data=K2, box=256, sizes=(64,)),
        Case(name="sparse", title="5 picks per micrograph, 256 -> 128", data=SPARSE, box=256, sizes=(128,)),
        Case(name="counts", title="uint16 micrographs, 400 -> 128", data=COUNTS, box=400, sizes=(128,)),
        Case(
            name="table",
            title="recentering 1,000,000 rows on 10,000 micrographs, box 16",
            data=TABLE,
            box=16,
            sizes=(16,),
        ),
        Case(
            name="memory",
            title="in memory: 256 -> 64, normalized",
            data=replace(K2, micrographs=1),
            box=256,
            sizes=(64,),
            kind="memory",
            goals={"numpy": 1 / 5},
        ),
    )
}


def case(name: str) -> Case:
    """The case of that name, or an error that lists them."""
    if name not in CASES:
        raise SystemExit(f"no case {name!r}; there are {', '.join(CASES)}")
    return CASES[name]
