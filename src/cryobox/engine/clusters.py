"""Executors that reach other hosts, for the command line: a dask scheduler by its address, MPI ranks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from cryobox.bounds import MOST_WORKERS
from cryobox.errors import BackendError, MissingExtraError, OptionError

__all__ = ["dask_executor", "mpi_executor"]

CONNECT_SECONDS = 30.0


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The workers of a dask scheduler at `address` ("tcp://host:8786"), or N processes of this host ("local:N").

    Raises
    ------
    OptionError
        If the address is no address.
    BackendError
        If nobody answers there.
    MissingExtraError
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise MissingExtraError("--dask needs dask.distributed: pip install 'cryobox[dask]'") from error
    kind, _, rest = address.partition(":")
    if kind == "local":
        if not re.fullmatch(r"\d{1,9}", rest) or not 1 <= int(rest) <= MOST_WORKERS:
            raise OptionError(
                f"--dask local:N needs a number of workers, at least 1 and at most {MOST_WORKERS}; got {address!r}"
            )
        with (
            _quiet(),
            LocalCluster(
                n_workers=int(rest), threads_per_worker=1, processes=True, dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):  # fmt: skip
            yield client.get_executor(pure=False)
        return
    if not rest:
        raise OptionError(f"--dask needs tcp://HOST:PORT or local:N; got {address!r}")
    with _quiet():
        try:
            client = Client(address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise BackendError(f"{address}: no dask scheduler answers ({type(error).__name__}: {error})") from error
        with client:
            yield client.get_executor(pure=False)


@contextmanager
def mpi_executor() -> Iterator[Executor]:
    """The other ranks of `mpirun -n N python -m mpi4py.futures -m cryobox ...`.

    Raises
    ------
    OptionError
        If the program was not started so.
    MissingExtraError
    """
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPIPoolExecutor
    except ImportError as error:
        raise MissingExtraError("--mpi needs mpi4py and an MPI: pip install 'cryobox[mpi]'") from error
    # Every rank would be a driver of its own without mpi4py.futures, which lets all but the first serve.
    if MPI.COMM_WORLD.size < 2 or not _served():
        raise OptionError(
            "--mpi works on the ranks of one program: start it as "
            "`mpirun -n 4 python -m mpi4py.futures -m cryobox extract ... --mpi` (3 workers and the driver)"
        )
    with MPIPoolExecutor() as pool:
        yield pool


def _served() -> bool:
    from mpi4py.futures import _core

    return getattr(_core, "SharedPool", None) is not None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without dask's own lines about workers that come and go: the run tells what matters."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
