# SPDX-License-Identifier: Apache-2.0
"""Other libraries' arrays, borrowed for one call without a copy.

torch tensors, numpy arrays (also ml_dtypes'), what has __cuda_array_interface__ (version 3), and
what exports DLPack (0.x and 1.x). None of these libraries is imported here.
"""
import ctypes as C
import sys
from typing import NamedTuple, Optional, Tuple

from . import _abi
from .errors import ArgumentError

Dtype = _abi.Dtype


class Array(NamedTuple):
    """A borrowed array: valid as long as `owner` is."""

    address: int
    shape: Tuple[int, ...]
    dtype: object  # a Dtype, or what the array calls it where banyan has no such format
    contiguous: bool
    writable: bool
    device: str  # "cpu" or "cuda"
    owner: object


_NAMES = {
    "float32": Dtype.F32, "bfloat16": Dtype.BF16, "float16": Dtype.F16,
    "float8_e4m3fn": Dtype.E4M3, "int64": "int64", "uint32": "uint32",
}
_TYPESTR = {"<f4": Dtype.F32, "<f2": Dtype.F16, "<i8": "int64"}


def _strides_contiguous(shape, strides):
    """Are `strides`, in elements, those of a C-ordered array? Axes of length 1 do not count."""
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _of_torch(x):
    torch = sys.modules["torch"]
    if x.layout != torch.strided:
        raise ArgumentError(f"a tensor of layout {x.layout}; only strided ones have an address")
    device = x.device.type
    if x.requires_grad and torch.is_grad_enabled():
        raise ArgumentError("the tensor requires a gradient and banyan computes none: call under "
                            "torch.no_grad(), or pass x.detach()")
    name = str(x.dtype).removeprefix("torch.")
    return Array(x.data_ptr(), tuple(x.shape), _NAMES.get(name, name), x.is_contiguous(), True,
                 device, x)


def _of_numpy(x):
    return Array(x.ctypes.data, x.shape, _NAMES.get(x.dtype.name, x.dtype.name),
                 x.flags.c_contiguous, x.flags.writeable, "cpu", x)


def _of_cuda(x):
    interface = x.__cuda_array_interface__
    address, read_only = interface["data"]
    shape, typestr = tuple(interface["shape"]), interface["typestr"]
    strides, item = interface.get("strides"), int(typestr[2:])
    whole = strides is None or _strides_contiguous(shape, [s // item for s in strides])
    return Array(address or 0, shape, _TYPESTR.get(typestr, typestr), whole, not read_only,
                 "cuda", x)


class _DLTensor(C.Structure):
    _fields_ = [("data", C.c_void_p), ("device_type", C.c_int32), ("device_id", C.c_int32),
                ("ndim", C.c_int32), ("code", C.c_uint8), ("bits", C.c_uint8),
                ("lanes", C.c_uint16), ("shape", C.POINTER(C.c_int64)),
                ("strides", C.POINTER(C.c_int64)), ("byte_offset", C.c_uint64)]


class _DLVersioned(C.Structure):
    _fields_ = [("major", C.c_uint32), ("minor", C.c_uint32), ("context", C.c_void_p),
                ("deleter", C.c_void_p), ("flags", C.c_uint64), ("tensor", _DLTensor)]


_DL_CODES = {(2, 32): Dtype.F32, (2, 16): Dtype.F16, (4, 16): Dtype.BF16, (10, 8): Dtype.E4M3,
             (0, 64): "int64", (1, 32): "uint32"}
_DL_DEVICES = {1: "cpu", 3: "cpu", 2: "cuda", 13: "cuda"}

_capsule_is = C.pythonapi.PyCapsule_IsValid
_capsule_is.argtypes, _capsule_is.restype = [C.py_object, C.c_char_p], C.c_int
_capsule_get = C.pythonapi.PyCapsule_GetPointer
_capsule_get.argtypes, _capsule_get.restype = [C.py_object, C.c_char_p], C.c_void_p


def _of_dlpack(x):
    """The capsule is held, never renamed: its own destructor gives the tensor back."""
    try:
        capsule = x.__dlpack__(max_version=(1, 0))
    except TypeError:  # a producer from before DLPack 1.0
        capsule = x.__dlpack__()
    writable = True
    if _capsule_is(capsule, b"dltensor_versioned"):
        address = _capsule_get(capsule, b"dltensor_versioned")
        versioned = _DLVersioned.from_address(address)
        if versioned.major != 1:
            raise ArgumentError(f"DLPack of version {versioned.major}; 1 is understood")
        writable, t = not versioned.flags & 1, versioned.tensor
    else:
        t = _DLTensor.from_address(_capsule_get(capsule, b"dltensor"))
    shape = tuple(t.shape[i] for i in range(t.ndim))
    whole = not t.strides or _strides_contiguous(shape, [t.strides[i] for i in range(t.ndim)])
    kind = (t.code, t.bits)
    dtype = _DL_CODES.get(kind, f"DLPack code {t.code} of {t.bits} bits") if t.lanes == 1 else None
    device = _DL_DEVICES.get(t.device_type, f"DLPack device {t.device_type}")
    return Array((t.data or 0) + t.byte_offset, shape, dtype, whole, writable, device,
                 (x, capsule))


_FORMATS = {"f": Dtype.F32, "e": Dtype.F16, "q": "int64", "l": "int64", "I": "uint32"}


class _PyBuffer(C.Structure):
    _fields_ = [("buf", C.c_void_p), ("obj", C.py_object), ("len", C.c_ssize_t),
                ("itemsize", C.c_ssize_t), ("readonly", C.c_int), ("ndim", C.c_int),
                ("format", C.c_char_p), ("shape", C.c_void_p), ("strides", C.c_void_p),
                ("suboffsets", C.c_void_p), ("internal", C.c_void_p)]


_get_buffer, _release_buffer = C.pythonapi.PyObject_GetBuffer, C.pythonapi.PyBuffer_Release
_get_buffer.argtypes, _get_buffer.restype = [C.py_object, C.c_void_p, C.c_int], C.c_int
_release_buffer.argtypes, _release_buffer.restype = [C.c_void_p], None


def _of_buffer(x):
    """Python's own buffers: array.array, a cast memoryview, ctypes arrays. Read-only ones too, whose
    address only the C API tells."""
    with memoryview(x) as view:
        kind = _FORMATS.get(view.format.lstrip("<=@"), view.format)
        shape, whole, writable = view.shape, view.c_contiguous, not view.readonly
        raw = _PyBuffer()
        if _get_buffer(view, C.byref(raw), 0):
            raise TypeError("no contiguous buffer")
        address = raw.buf
        _release_buffer(C.byref(raw))
    return Array(address or 0, shape, kind, whole, writable, "cpu", x)


def borrow(x) -> Array:
    """The memory of `x`; TypeError when it is no array that banyan knows."""
    module = type(x).__module__.partition(".")[0]
    if "torch" in sys.modules and isinstance(x, sys.modules["torch"].Tensor):
        return _of_torch(x)
    if module == "numpy" and hasattr(x, "ctypes"):
        return _of_numpy(x)
    if hasattr(x, "__cuda_array_interface__"):
        return _of_cuda(x)
    if hasattr(x, "__dlpack__"):
        return _of_dlpack(x)
    try:
        return _of_buffer(x)
    except TypeError:
        raise TypeError(f"a {type(x).__name__} is no array: pass a torch tensor, a numpy array, or "
                        "what exports DLPack, __cuda_array_interface__ or a buffer") from None


def address(name, x, shape, dtype, device, write=False) -> Optional[int]:
    """The address of `x` after a check of everything that C cannot see; None for None.

    shape: what is expected, slowest first; dtype: a Dtype or "int64"; device: "cpu" or "cuda".
    """
    if x is None:
        return None
    a = borrow(x)
    if a.dtype != dtype:
        raise ArgumentError(f"{name} holds {_dtype_text(a.dtype)}; expected {_dtype_text(dtype)}")
    if a.shape != tuple(shape):
        raise ArgumentError(f"{name} has shape {list(a.shape)}; expected {list(shape)}")
    if not a.contiguous:
        raise ArgumentError(f"{name} is not contiguous in row-major order: pass a contiguous copy")
    if a.device != device:
        raise ArgumentError(f"{name} lies on {a.device}; the plan computes on {device}")
    if write and not a.writable:
        raise ArgumentError(f"{name} is read-only, and results are written to it")
    return a.address


def _dtype_text(dtype):
    return dtype.name.lower() if isinstance(dtype, Dtype) else str(dtype)
