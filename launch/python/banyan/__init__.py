# SPDX-License-Identifier: Apache-2.0
"""banyan: exact attention over a key/value cache spread across many ranks.

    import banyan
    with banyan.Comm() as comm:
        plan = banyan.Plan(comm, layers=1, heads=8, kv_heads=2, key_dim=64, max_tokens=1 << 20,
                           rules=["s2 stride=8 local=16 per=query"])
        cache = plan.cache()
        sequence = cache.sequence()
        out = cache.attend(0, banyan.Part(sequence, 0, rows), q, k, v)

banyan.hf runs any model of transformers on it; python -m banyan SCRIPT ends all ranks when one
raises. banyan.h is the reference.
"""
from . import _abi
from ._library import raw as _raw
from .core import (Cache, Comm, Dtype, LayerShape, Part, Plan, Rule, Sequence, Shape, dtype,
                   launched, snapshot_note)
from .errors import (ArgumentError, CommError, ConfigError, DeviceError, Error, FileError,
                     OutOfMemory, PeerError, Unsupported)
from .pattern import rules_from_pattern
from .show import show

Status, Table = _abi.Status, _abi.Table

__all__ = ["Cache", "Comm", "Dtype", "LayerShape", "Part", "Plan", "Rule", "Sequence", "Shape",
           "ArgumentError", "CommError", "ConfigError", "DeviceError", "Error", "FileError",
           "OutOfMemory", "PeerError", "Unsupported", "Status", "Table", "dtype", "launched", "rows",
           "rules_from_pattern", "show", "snapshot_note"]


def __getattr__(name):
    if name == "__version__":  # libbanyan's, which is loaded when it is needed
        return _raw["banyan_version"]().decode()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def rows(table: Table):
    """What this build offers: (name, doc, why) of each row of one of its five tables; why is ""
    where it can be used here."""
    import ctypes as C
    found = []
    name, doc, why, index = C.c_char_p(), C.c_char_p(), C.c_char_p(), 0
    while _raw["banyan_list"](table, index, C.byref(name), C.byref(doc), None, C.byref(why)):
        found.append((name.value.decode(), doc.value.decode(), why.value.decode()))
        index += 1
    return found
