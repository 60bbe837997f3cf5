"""A facility's long-lived worker: one micrograph per message, cut in memory, without files or tables of ours.

Messages are JSON lines on standard input: {"micrograph": "mic_001.mrc", "picks": [[y, x], ...], "out": "mic_001.npy"}.
Answers are JSON lines on standard output. Replace both by the queue that the facility has.
"""

from __future__ import annotations

import json
import sys

import mrcfile
import numpy as np

import cryobox

BOX, SIZE = 400, 128


def main() -> None:
    """Answer until the input ends. Work space and buffers are kept from one message to the next."""
    for line in sys.stdin:
        message = json.loads(line)
        try:
            with mrcfile.mmap(message["micrograph"], mode="r", permissive=True) as file:
                micrograph = np.asarray(file.data, dtype=file.data.dtype.newbyteorder("="))
                centers = np.asarray(message["picks"], dtype=np.float64).reshape(-1, 2)
                images, kept = cryobox.extract(micrograph, centers, box=BOX, sizes=SIZE)
            np.save(message["out"], images)
            answer = {"micrograph": message["micrograph"], "kept": kept.tolist()}
        except (OSError, ValueError) as error:  # every error of cryobox's inputs is a ValueError or an OSError
            answer = {"micrograph": message["micrograph"], "error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
