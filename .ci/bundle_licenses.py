"""Says in a repaired wheel's metadata under which licenses the libraries inside it are, and adds their texts.

Usage: bundle_licenses.py WHEEL. Replaces the wheel. Knows the places for the texts on Debian and in manylinux images.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Library in the wheel -> SPDX expression, and where its terms may lie: the first of these lists that is whole is used.
BUNDLED = {
    "libfftw3f": (
        "GPL-2.0-or-later",
        [
            ["/usr/local/share/doc/fftw/COPYRIGHT", "/usr/local/share/doc/fftw/COPYING"],  # .ci/build_fftw.sh
            ["/usr/share/doc/libfftw3-single3/copyright", "/usr/share/common-licenses/GPL-2"],
        ],
    ),
    "libgomp": (
        "GPL-3.0-or-later WITH GCC-exception-3.1",
        [
            ["/usr/share/doc/libgomp1/copyright", "/usr/share/common-licenses/GPL-3"],
            ["/usr/share/licenses/libgcc/COPYING3", "/usr/share/licenses/libgcc/COPYING.RUNTIME"],
        ],
    ),
}


def terms(library: str, places: list[list[str]]) -> str:
    for texts in places:
        if all(Path(source).is_file() for source in texts):
            return "\n\n".join(Path(source).read_text(errors="replace") for source in texts)
    raise SystemExit(f"{library}: its license text is in none of {places}")


def add_licenses(unpacked: Path) -> None:
    (info,) = unpacked.glob("*.dist-info")
    expressions, files = [], []
    for library in sorted(path.name for path in unpacked.glob("*.libs/*")):
        name = re.split(r"[-.]", library)[0]
        if name not in BUNDLED:
            raise SystemExit(f"{library}: bundled, but its license is not known here; add it to BUNDLED")
        expression, places = BUNDLED[name]
        expressions.append(expression)
        files.append(f"{name}.txt")
        (info / "licenses" / files[-1]).write_text(terms(name, places))
    metadata = info / "METADATA"
    head, separator, body = metadata.read_text().partition("\n\n")
    head = re.sub(
        r"^License-Expression: (.*)$",
        rf"License-Expression: \1 AND {' AND '.join(expressions)}",
        head,
        flags=re.MULTILINE,
    )
    head = re.sub(
        r"^License-File: LICENSE$",
        "\n".join(f"License-File: {n}" for n in ["LICENSE", *files]),
        head,
        flags=re.MULTILINE,
    )
    if any(expression not in head for expression in expressions):
        raise SystemExit(f"{metadata}: has no License-Expression to extend")
    metadata.write_text(head + separator + body)


def main() -> None:
    wheel = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        tool = [sys.executable, "-m", "wheel"]
        subprocess.run([*tool, "unpack", "--dest", folder, str(wheel)], check=True)
        (unpacked,) = Path(folder).iterdir()
        add_licenses(unpacked)
        wheel.unlink()
        subprocess.run([*tool, "pack", "--dest-dir", str(wheel.parent), str(unpacked)], check=True)


if __name__ == "__main__":
    main()
