"""Forks a prepared process for every run that is asked for, so that hundreds of crashes take seconds.

Started with the shim preloaded. Reads a JSON object a line: `argv`, `folder`, `log` for the output, `fault`, the
arguments of `shim_arm`, and `clock`, the seconds that the clock of the day steps at every look at it. Answers with the
exit status that `os.waitpid` gives.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import traceback

_NEEDED = ("mrcfile", "typer", "cryobox.cli", "cryobox.formats.cs", "cryobox.formats.star", "cryobox.job")


def _child(request: dict[str, object]) -> int:
    output = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(str(request["folder"]))
    fault = request["fault"]
    assert isinstance(fault, list)
    shim = ctypes.CDLL(None)
    shim.shim_arm(*(value.encode() if isinstance(value, str) else value for value in fault))
    shim.shim_step_clock(ctypes.c_long(int(str(request["clock"]))))
    from cryobox.cli import main

    argv = request["argv"]
    assert isinstance(argv, list)
    try:
        main(argv)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001 - whatever it is, a user would have seen it
        traceback.print_exc()
        return 99
    return 0


def main() -> None:
    for name in _NEEDED:  # before anything is armed
        importlib.import_module(name)
    from cryobox.formats import mrc_stack

    mrc_stack._WORTH_RESERVING = 0  # the small stacks of these runs ask for their room as large ones do
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 98
            try:
                code = _child(request)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


if __name__ == "__main__":
    main()
