"""A Slurm of this machine's own, on loopback: munge, one controller and one node with several slots, in one folder.

`python tests/scale/slurm.py FOLDER` starts one, prints the environment to talk to it, and waits for Enter.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
SLOTS = 3

_CONF = """# A Slurm for tests: no accounting, no cgroups, everything in one folder.
ClusterName=cryobox
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=1
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} RealMemory=64000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class NoSlurmError(Exception):
    """Slurm cannot be started here; the text says why."""


def why_not() -> str | None:
    """What is missing, None if nothing is."""
    missing = [name for name in NEEDED if not shutil.which(name, path=_PATH)]
    if missing:
        return f"{', '.join(missing)} are not installed (Debian: apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "a Slurm of our own needs root, since it starts jobs as users"


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@contextmanager
def slurm(folder: Path, slots: int = SLOTS) -> Iterator[dict[str, str]]:
    """The environment in which `sbatch` and its kin talk to a Slurm that lives as long as the context.

    Raises
    ------
    NoSlurmError
    """
    if reason := why_not():
        raise NoSlurmError(reason)
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    conf = folder / "slurm.conf"
    controller, node = _free_port(), _free_port()
    conf.write_text(_CONF.format(host=host, folder=folder, controller=controller, node=node, slots=slots))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = os.environ | {"SLURM_CONF": str(conf), "PATH": _PATH}
    for name in [name for name in environment if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF"]:
        del environment[name]
    munged = [
        "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
    ]  # fmt: skip
    with ExitStack() as daemons:
        for command in (munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", host]):
            daemons.enter_context(_daemon(command, folder, environment))
            if command is munged:
                _wait((folder / "munge.socket").exists, folder, "munged")
        _wait(lambda: "idle" in _say(["sinfo", "-h", "-o", "%T"], environment), folder, "slurmctld, slurmd")
        yield environment
        _say(["scancel", "--user=root"], environment)
        _wait(lambda: not _say(["squeue", "-h"], environment).strip(), folder, "jobs that end")


@contextmanager
def _daemon(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    with (
        open(folder / f"{command[0]}.out", "w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder) as daemon,
    ):
        try:
            yield
        finally:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _wait(ready: object, folder: Path, what: str, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        if time.monotonic() > until:
            logs = "\n".join(
                f"{path.name}: {line}"
                for path in sorted(folder.glob("*.out")) + sorted(folder.glob("*.log"))
                for line in path.read_text(errors="replace").splitlines()[-3:]
            )
            raise NoSlurmError(f"{what} did not come up within {seconds:g} s:\n{logs}")
        time.sleep(0.2)


def _say(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


if __name__ == "__main__":
    with slurm(Path(sys.argv[1]).resolve()) as talk:
        print(f"export SLURM_CONF={talk['SLURM_CONF']}", flush=True)
        input()
