# SPDX-License-Identifier: Apache-2.0
"""Finds libbanyan, loads it, and calls it.

Looked for in this order: the file that BANYAN_LIBRARY names; beside this package; where the system
looks for libraries. Functions are called through `call` (a status becomes an exception) or `raw`.
The GIL is free while C computes.
"""
import ctypes as C
import os
import pathlib
import sys

from . import _abi, errors

_LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS")


def _import_mpi_first():
    """mpi4py must map its libmpi before libbanyan maps one: the second then finds the first, and
    there is one MPI in the process. Importing it also initialises MPI, so that a process which no
    launcher started is left alone."""
    if "mpi4py.MPI" in sys.modules or not any(name in os.environ for name in _LAUNCHED):
        return
    try:
        import mpi4py.MPI  # noqa: F401
    except ImportError:
        pass  # banyan initialises MPI itself


def _candidates():
    named = os.environ.get("BANYAN_LIBRARY")
    if named:
        return [named]
    here = pathlib.Path(__file__).resolve().parent
    beside = [str(p) for folder in (here, here / "lib") for p in sorted(folder.glob("libbanyan.so*"))]
    return beside + ["libbanyan.so.0.1", "libbanyan.so"]


def _load():
    _import_mpi_first()
    reasons = []
    for name in _candidates():
        try:
            return C.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
    raise ImportError("libbanyan was not found: set BANYAN_LIBRARY to its file, or install it "
                      "(pip install ./launch/python builds it). Tried: " + "; ".join(reasons))


class _Functions(dict):
    """The library's functions by name. It is loaded when the first is asked for, not when banyan is
    imported: torch brings an NCCL of its own, and cannot be imported any more where libbanyan has
    mapped an older one of the system; the other way round both use torch's."""

    def __missing__(self, name):
        library = _load()
        for known, (result, arguments) in _abi.FUNCTIONS.items():
            try:
                function = getattr(library, known)
            except AttributeError:
                raise ImportError(f"{library._name} has no {known}: it is another version of "
                                  "libbanyan than this package was made for") from None
            function.argtypes, function.restype = arguments, result
            self.setdefault(known, function)
        return dict.__getitem__(self, name)


raw = _Functions()


def call(name, *arguments):
    """Calls a function that returns a status; raises what it says went wrong, in its own words."""
    status = raw[name](*arguments)
    if status:
        message = raw["banyan_error_message"]().decode(errors="replace")
        raise errors.of_status(status, message)
