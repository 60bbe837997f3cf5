"""Processes that were forked after OpenMP had started, as pools of processes are in older Pythons: nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# The child inherits the record of a team of threads, but not the threads.
SCRIPT = """
import os, sys
import numpy as np
import cryobox

image = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
centers = [(60 + i, 80) for i in range(40)]
expected = cryobox.extract(image, centers, box=64, threads=2)[0]

def child():
    images = cryobox.extract(image, centers, box=64, threads=3)[0]
    cropped = cryobox.fourier_crop(images, 32, threads=2)
    return np.array_equal(images, expected) and cropped.shape == (40, 32, 32)

for generation in range(int(sys.argv[1])):
    pid = os.fork()
    if pid:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os._exit(0 if child() else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("generations", [1, 2])
def test_several_threads_in_a_forked_process_end_with_the_same_bits(generations: int) -> None:
    # The limit is for a hang, not for speed: nothing here takes a second.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, str(generations)]
    with subprocess.Popen(command, process_group=0, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, said = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            raise
    assert process.returncode == 0, said
