"""`cryobox restack` beside its floors and peers: `python -m bench.restack --data FOLDER`.

Images of 512 pixels in stacks of 100 are made into new stacks: copied, and Fourier-cropped to 128. Beside it, in turn:
RELION's `relion_stack_create` (copies, one by one) and `relion_preprocess --operate_on --scale` (crops one stack),
a careful NumPy (scipy.fft on all cores), and the floors: the same bytes read and written, FFTW's bare transforms.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import mrcfile
import numpy as np

from bench.machine import cores, execute, floors_program, fresh, save, spread, warm_files

__all__ = ["main"]

SIDE, CROP, IN_A_STACK = 512, 128, 100
GOAL = 2_000.0  # particles/s, 512 to 128, on 2 cores from page cache
OF_THE_FLOORS = 1.25

NUMPY = textwrap.dedent(
    """
    import json, sys, time, numpy as np, scipy.fft
    from concurrent.futures import ThreadPoolExecutor
    listed, out, side, crop, workers = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    paths = open(listed).read().split()
    half = crop // 2
    def one(number):
        images = np.fromfile(paths[number], "f4", offset=1024).reshape(-1, side, side)
        if crop == side:
            found = images
        else:
            found = np.empty((len(images), crop, crop), "f4")
            for i, image in enumerate(images):
                f = scipy.fft.rfft(image, axis=1)[:, : half + 1]
                f = scipy.fft.fft(f, axis=0)
                f = np.concatenate([f[: half + 1], f[side - half + 1 :]])
                found[i] = scipy.fft.irfft2(f, s=(crop, crop)) * (crop / side) ** 2
        with open(f"{out}/{number:06d}.mrcs", "wb") as file:
            file.write(bytes(1024))
            file.write(found.data)
    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, range(len(paths))))
    print(json.dumps({"seconds": time.perf_counter() - start}))
    """
)


def main() -> None:
    """Parse the arguments, measure in turn, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for the stacks; reused")
    parser.add_argument("--images", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    paths, table, shuffled = _ensure(data, arguments.images)
    out, workers = data / "restacked", cores()
    program = str(floors_program(data))
    listed = data / "stacks.txt"
    listed.write_text("".join(f"{path}\n" for path in paths))

    def ours(table: Path, *more: str) -> list[str]:
        command = [sys.executable, "-m", "cryobox", "restack", str(table), "--out", str(out / "ours"), "--no-fsync"]
        return [*command, "--root", str(data), "--workers", str(workers), "--json", *more]

    def numpy(size: int) -> list[str]:
        return [sys.executable, "-c", NUMPY, str(listed), str(out), str(SIDE), str(size), str(workers)]

    def copies(size: int) -> list[str]:
        bytes_out = 1024 + IN_A_STACK * size * size * 4
        command = [program, "copy", "--list", str(listed), "--out", str(out), "--stacks", str(bytes_out)]
        return [*command, "--workers", str(workers)]

    fft = [program, "fft", "--box", str(SIDE), "--sizes", str(CROP), "--particles", str(len(paths) * IN_A_STACK)]
    arms: dict[str, tuple[list[str], int]] = {
        "crop, ours": (ours(table, "--fcrop", str(CROP)), arguments.images),
        "crop, ours, shuffled": (ours(shuffled, "--fcrop", str(CROP)), arguments.images),
        "crop, numpy": (numpy(CROP), arguments.images),
        "crop, copy floor": (copies(CROP), arguments.images),
        "crop, fft floor": ([*fft, "--workers", str(workers)], arguments.images),
        "copy, ours": (ours(table), arguments.images),
        "copy, ours, shuffled": (ours(shuffled), arguments.images),
        "copy, numpy": (numpy(SIDE), arguments.images),
        "copy, copy floor": (copies(SIDE), arguments.images),
    }
    if shutil.which("relion_stack_create"):
        create = ["relion_stack_create", "--i", table.name, "--o", str(out / "theirs"), "--one_by_one"]
        arms["copy, relion"] = (create, arguments.images)
        operate = ["relion_preprocess", "--operate_on", paths[0].name, "--scale", str(CROP)]
        arms["crop, relion, one stack"] = ([*operate, "--operate_out", str(out / "theirs.mrcs")], IN_A_STACK)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    try:
        for lap in range(arguments.rounds):
            for name in list(arms) if lap % 2 == 0 else list(arms)[::-1]:
                command, _ = arms[name]
                size = CROP if name.startswith("crop") else SIDE
                fresh(out, arguments.images * size * size * 4, paths).release()
                done = execute(command, cwd=data)
                said = {} if "relion" in name else json.loads(done.stdout.splitlines()[-1])
                seconds[name].append(float(said.get("seconds", done.seconds)))
    finally:
        shutil.rmtree(out, ignore_errors=True)
    rates = {name: spread([count / one for one in seconds[name]]) for name, (_, count) in arms.items()}
    told = f"{arguments.images} images of {SIDE} pixels in stacks of {IN_A_STACK}, {workers} workers"
    print(f"{told}; RELION's as whole processes")
    for name, rate in rates.items():
        print(f"{name:28s}{rate.text(0):>32s} images/s")
    floor = [a + b for a, b in zip(seconds["crop, copy floor"], seconds["crop, fft floor"], strict=True)]
    ratio = spread([a / b for a, b in zip(seconds["crop, ours"], floor, strict=True)])
    print(f"crop beside (copy + fft floor): {ratio.text(2)}; goals {GOAL:.0f} images/s, {OF_THE_FLOORS} x the floors")
    found = {name: {"median": rate.median, "low": rate.low, "high": rate.high} for name, rate in rates.items()}
    of_floors = {"median": ratio.median, "low": ratio.low, "high": ratio.high}
    print(f"written to {save('restack', {'rates': found, 'of_floors': of_floors, 'images': arguments.images})}")


def _ensure(folder: Path, images: int) -> tuple[list[Path], Path, Path]:
    """The stacks, a table of all their images, and one in another order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"restack_{number:04d}.mrcs" for number in range(images // IN_A_STACK)]
    noise = np.random.default_rng(1).standard_normal((IN_A_STACK, SIDE, SIDE), np.float32)
    for path in paths:
        if not path.exists() or path.stat().st_size != 1024 + noise.nbytes:
            with mrcfile.new(path, overwrite=True) as file:
                file.set_data(noise)
                file.voxel_size = 0.8
    warm_files(paths)
    names = [f"{slot + 1:06d}@{path.name}" for path in paths for slot in range(IN_A_STACK)]
    order = np.random.default_rng(2).permutation(len(names))
    tables = folder / "restack.star", folder / "restack_shuffled.star"
    _write(tables[0], names)
    _write(tables[1], [names[i] for i in order.tolist()])
    return paths, *tables


def _write(path: Path, names: Sequence[str]) -> None:
    optics = ["OpticsGroup", "OpticsGroupName", "ImagePixelSize", "ImageSize", "ImageDimensionality", "Voltage"]
    optics = [f"_rln{name}" for name in (*optics, "SphericalAberration", "AmplitudeContrast")]
    head = "# version 30001\n\ndata_optics\n\nloop_\n" + "\n".join(optics)
    head += f"\n1 group 0.800000 {SIDE} 2 300.0 2.7 0.1\n\n# version 30001\n\ndata_particles\n\nloop_\n"
    tell: Callable[[str], str] = lambda name: f"{name} 1 mic_{name[-9:-5]}.mrc 12000.0 11800.0 35.0\n"  # noqa: E731
    tags = "_rlnImageName\n_rlnOpticsGroup\n_rlnMicrographName\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
    path.write_text(head + tags + "".join(map(tell, names)) + "\n")


if __name__ == "__main__":
    main()
