# SPDX-License-Identifier: Apache-2.0
"""banyan's errors: one class a status, each also the standard exception that fits."""
from . import _abi


class Error(RuntimeError):
    """What a call said went wrong; `status` is a banyan.Status."""

    status = None


class ArgumentError(Error, ValueError):
    """The caller broke a documented rule."""

    status = _abi.Status.ERR_ARGUMENT


class ConfigError(Error, ValueError):
    """A name or value of what was asked for is wrong."""

    status = _abi.Status.ERR_CONFIG


class OutOfMemory(Error, MemoryError):
    """More memory is needed than there is."""

    status = _abi.Status.ERR_MEMORY


class Unsupported(Error, NotImplementedError):
    """Known, but not in this build or on this machine."""

    status = _abi.Status.ERR_UNSUPPORTED


class DeviceError(Error):
    """CUDA reported an error."""

    status = _abi.Status.ERR_DEVICE


class CommError(Error, ConnectionError):
    """A transport failed, or a rank did not arrive in time."""

    status = _abi.Status.ERR_COMM


class PeerError(Error):
    """Another rank failed; this one did not."""

    status = _abi.Status.ERR_PEER


class FileError(Error, OSError):
    """A snapshot's file is not there, full, or damaged."""

    status = _abi.Status.ERR_FILE


_BY_STATUS = {c.status: c for c in (ArgumentError, ConfigError, OutOfMemory, Unsupported,
                                    DeviceError, CommError, PeerError, FileError)}


def of_status(status, message):
    """The exception for a status that is not OK."""
    return _BY_STATUS.get(status, Error)(message)
