"""The exceptions of cryobox. Catch `CryoboxError`, or the builtin that a leaf also is."""

from __future__ import annotations

__all__ = [
    "AbortedError",
    "BackendError",
    "CryoboxError",
    "InputError",
    "LockError",
    "MicrographError",
    "MissingExtraError",
    "OptionError",
    "OutputError",
]


class CryoboxError(Exception):
    """Base of every error that cryobox raises on purpose."""


class OptionError(CryoboxError, ValueError):
    """An option, or a combination of options, that cannot be honored."""


class InputError(CryoboxError, ValueError):
    """A table or file that cannot be used; the message begins with its path."""


class MicrographError(InputError):
    """One micrograph that cannot be read; a run lists it and goes on."""


class OutputError(CryoboxError, OSError):
    """The output folder or a file in it cannot be written, or belongs to another run."""


class LockError(OutputError):
    """Another process works in the same output folder."""


class BackendError(CryoboxError, RuntimeError):
    """The compiled core or a device is missing or failed."""


class MissingExtraError(BackendError, ImportError):
    """An optional library is needed; the message names the extra that installs it."""


class AbortedError(CryoboxError, RuntimeError):
    """A run that had begun could not go on; what it finished is recorded, and the same call resumes."""
