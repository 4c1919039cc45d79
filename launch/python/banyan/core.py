# SPDX-License-Identifier: Apache-2.0
"""Comm, Plan, Cache, Sequence: the handles of banyan.h, and attend.

They are made in this order and closed in the reverse one: by close(), by `with`, or, what is left,
when the process exits. Nothing is closed by garbage collection: ranks must make and close the same
things in the same order, and no two of them collect alike.
"""
import atexit
import ctypes as C
import os
import sys
import threading
from dataclasses import dataclass
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence as Seq, Tuple, Union

from . import _abi, _arrays
from ._library import call, raw
from .errors import ArgumentError

Dtype = _abi.Dtype
_DTYPES = {"fp32": Dtype.F32, "float32": Dtype.F32, "bf16": Dtype.BF16, "bfloat16": Dtype.BF16,
           "fp16": Dtype.F16, "float16": Dtype.F16, "e4m3": Dtype.E4M3,
           "float8_e4m3fn": Dtype.E4M3, "fp8": Dtype.E4M3}
_CHOICES = {"balance": _abi.Balance, "home": _abi.Home, "out": _abi.Out}


def dtype(name) -> Dtype:
    """A Dtype from its name ("bf16", "bfloat16", ..) or from a torch or numpy dtype."""
    if isinstance(name, Dtype):
        return name
    word = str(getattr(name, "name", name)).removeprefix("torch.")
    if word not in _DTYPES:
        raise ArgumentError(f"dtype {word!r}; expected one of {', '.join(sorted(_DTYPES))}")
    return _DTYPES[word]


def _choice(field, value):
    members = {m.name.rpartition("_")[2].lower(): m for m in _CHOICES[field]}
    if str(value).lower() not in members:
        raise ArgumentError(f"{field} {value!r}; expected one of {', '.join(members)}")
    return members[str(value).lower()]


class _Handle:
    """An opaque pointer of the library, with those that were made of it."""

    _destroy = ""

    def __init__(self, parent: Optional["_Handle"]):
        self._as_parameter_ = C.c_void_p()  # what ctypes passes for self
        self._parent, self._children = parent, []
        self._lock = parent._lock if parent else threading.RLock()

    def _opened(self):
        if self._parent:
            self._parent._children.append(self)

    @property
    def closed(self) -> bool:
        return not self._as_parameter_

    def _check_open(self):
        if not self._as_parameter_:
            raise ArgumentError(f"this {type(self).__name__} is closed")

    def close(self) -> None:
        """Gives it back, with all that was made of it. A second call does nothing."""
        with self._lock:
            for child in reversed(self._children[:]):
                child.close()
            if self._as_parameter_:
                raw[self._destroy](self._as_parameter_)
                self._as_parameter_ = C.c_void_p()
                if self._parent:
                    self._parent._children.remove(self)

    def __enter__(self):
        self._check_open()
        return self

    def __exit__(self, *exception):
        self.close()


_comms: List["Comm"] = []


@atexit.register
def _close_all():
    """Without this an MPI that banyan initialised is never finalised, and mpirun calls the job
    failed. After an exception on one rank others may wait in a call: see python -m banyan."""
    for comm in reversed(_comms[:]):
        comm.close()


class Comm(_Handle):
    """Who takes part: `banyan_comm`. Collective.

    transport: "self", "mpi", "nccl", "imaginary", or None: "mpi" when an MPI launcher started the
        process, else "self".
    native: None (all ranks of the job), an mpi4py communicator (which is duplicated), or with
        "imaginary" the machine as text, "node:8 rank:4".
    """

    _destroy = "banyan_comm_destroy"

    def __init__(self, transport: Optional[str] = None, native: Any = None):
        super().__init__(None)
        pointer, self._keep = None, native
        if isinstance(native, str):
            self._keep = native.encode()
            pointer = C.cast(C.c_char_p(self._keep), C.c_void_p)
        elif native is not None:
            pointer, transport = _mpi_address(native), transport or "mpi"
        call("banyan_comm_create", transport.encode() if transport else None, pointer,
             C.byref(self._as_parameter_))
        _comms.append(self)

    def close(self):
        super().close()
        if self in _comms:
            _comms.remove(self)

    @property
    def rank(self) -> int:
        return raw["banyan_comm_rank"](self)

    @property
    def size(self) -> int:
        return raw["banyan_comm_size"](self)

    @property
    def nodes(self) -> int:
        return raw["banyan_comm_nodes"](self)

    def node(self, rank: int) -> int:
        """The node of a rank, from 0."""
        return raw["banyan_comm_node"](self, rank)

    def timeout(self, seconds: float) -> None:
        """The longest wait for other ranks before a call fails with CommError; 0: for ever."""
        raw["banyan_comm_timeout"](self, seconds)

    def exchange(self, sends: Seq[Tuple[int, int, int]], recvs: Seq[Tuple[int, int, int]]):
        """Sends and receives messages (peer, address in host memory, bytes), all at once; the
        messages between two ranks are matched in the order of both lists."""
        with self._lock:
            call("banyan_comm_exchange", self, _messages(sends), len(sends), _messages(recvs),
                 len(recvs))

    def broadcast(self, data: Any, root: int = 0) -> Any:
        """`data` of rank root, on all ranks: bytes, or anything that pickle takes. Collective."""
        import pickle
        mine = pickle.dumps(data) if self.rank == root else b""
        length = C.c_int64(len(mine))
        with self._lock:
            call("banyan_comm_broadcast", self, C.byref(length), 8, root)
            buffer = C.create_string_buffer(mine, length.value)
            call("banyan_comm_broadcast", self, buffer, length.value, root)
        return data if self.rank == root else pickle.loads(buffer.raw)

    def agree(self, ok: bool = True) -> None:
        """Raises on all ranks if any rank passes ok=False. Collective."""
        status = _abi.Status.OK if ok else _abi.Status.ERR_ARGUMENT
        with self._lock:
            call("banyan_comm_agree", self, status)

    def __repr__(self):
        return "<Comm closed>" if self.closed else f"<Comm rank {self.rank} of {self.size}>"


def _messages(messages):
    return (_abi.Message * max(1, len(messages)))(*messages)


def _mpi_address(native):
    """The MPI_Comm * of an mpi4py communicator, once both are seen to use one MPI library."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or not isinstance(native, mpi.Comm):
        raise ArgumentError(f"native is a {type(native).__name__}; expected an mpi4py communicator")
    handle_bytes = C.c_size_t()
    ours = raw["banyan_mpi_library"](C.byref(handle_bytes))
    if ours is None:
        raise ArgumentError("this libbanyan was built without MPI, and cannot use a communicator")
    ours, theirs = ours.decode().strip("\0\n "), mpi.Get_library_version().strip("\0\n ")
    if ours != theirs or handle_bytes.value != mpi._sizeof(native):
        raise ArgumentError(f"two MPI libraries in one process: libbanyan uses {ours!r}, mpi4py "
                            f"{theirs!r}. Import mpi4py.MPI before banyan, or let MPI4PY_LIBMPI "
                            "name the library that banyan was built with")
    return C.c_void_p(mpi._addressof(native))


class Rule(NamedTuple):
    """Query heads first_head..last_head of layers first_layer..last_layer (-1 as a last: the last
    there is) read what `use` selects: "s2 stride=16 local=16 per=kv"."""

    use: str
    first_layer: int = 0
    last_layer: int = -1
    first_head: int = 0
    last_head: int = -1


class LayerShape(NamedTuple):
    """Layers of another shape than the plan's; 0: as the plan's."""

    first_layer: int
    last_layer: int
    kv_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    scale: float = 0.0
    value_in_key: bool = False


class Shape(NamedTuple):
    """What one layer's arrays look like."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    value_in_key: bool


class Plan(_Handle):
    """Every decision, made once, the same on all ranks: `banyan_plan`. Collective.

    rules: strings (for all heads of all layers), Rule or tuples like it; the last that matches
        wins. Other keywords are the fields of banyan_spec in banyan.h, by their names: layers,
        heads, kv_heads, key_dim, value_dim, scale, max_tokens, planned_tokens, sequences,
        pool_tokens, max_rows, block_tokens, rollback_tokens, cache_dtype, evict, in_dtype,
        out_dtype, placement, balance, merge, kernel, device, home, out, reproducible, threads, ..
    shapes: LayerShape of layers that differ; cache_layer: [layers]; sinks: [layers][heads].
    """

    _destroy = "banyan_plan_destroy"

    def __init__(self, comm: Comm, *, rules: Iterable[Union[str, Rule, tuple]] = (),
                 shapes: Iterable[LayerShape] = (), cache_layer: Optional[Seq[int]] = None,
                 sinks: Optional[Seq[Seq[float]]] = None,
                 bandwidth: Optional[Seq[float]] = None, **fields):
        super().__init__(comm)
        comm._check_open()
        self.comm = comm
        spec = _abi.Spec()
        raw["banyan_spec_defaults"](C.byref(spec), C.sizeof(spec))
        known = [name for name, _ in _abi.Spec._fields_ if name != "size"]
        for name, value in fields.items():
            if name not in known:
                raise TypeError(f"a plan has no field {name!r}; it has {', '.join(known)}")
            setattr(spec, name, self._value(name, value))
        keep = [self._rules(rules), [_abi.LayerShape(*s) for s in shapes]]
        self._set_array(spec, "rules", "rule_count", keep, (_abi.Rule * len(keep[0]))(*keep[0]))
        self._set_array(spec, "shapes", "shape_count", keep,
                        (_abi.LayerShape * len(keep[1]))(*keep[1]))
        self._set_numbers(spec, "cache_layer", C.c_int32, cache_layer, keep)
        self._set_numbers(spec, "bandwidth", C.c_double, bandwidth, keep)
        flat = None if sinks is None else [float(x) for row in sinks for x in row]
        if flat is not None and len(flat) != spec.layers * spec.heads:
            raise ArgumentError(f"sinks has {len(flat)} numbers; expected [layers][heads] = "
                                f"[{spec.layers}][{spec.heads}]")
        self._set_numbers(spec, "sinks", C.c_float, flat, keep)
        call("banyan_plan_create", C.byref(spec), comm, C.byref(self._as_parameter_))
        self._opened()
        self.spec = raw["banyan_plan_spec"](self).contents
        self._shapes = [self._shape(layer, keep[1]) for layer in range(self.spec.layers)]
        self.in_dtype, self.out_dtype = Dtype(self.spec.in_dtype), Dtype(self.spec.out_dtype)
        self.device = self.spec.device.decode()

    @staticmethod
    def _value(name, value):
        if name.endswith("_dtype"):
            return dtype(value)
        if name in _CHOICES:
            return _choice(name, value)
        if isinstance(value, str):
            return value.encode()
        return value

    @staticmethod
    def _rules(rules):
        if isinstance(rules, str):
            rules = [rules]
        rules = [Rule(r) if isinstance(r, str) else Rule(*r) for r in rules]
        return [_abi.Rule(r.first_layer, r.last_layer, r.first_head, r.last_head, r.use.encode())
                for r in rules]

    @staticmethod
    def _set_array(spec, field, count, keep, array):
        keep.append(array)
        if len(array):
            setattr(spec, field, C.addressof(array))
            setattr(spec, count, len(array))

    @staticmethod
    def _set_numbers(spec, field, kind, values, keep):
        if values is not None:
            array = (kind * len(values))(*values)
            keep.append(array)
            setattr(spec, field, C.addressof(array))

    def _shape(self, layer, others):
        s, last = self.spec, self.spec.layers - 1
        kv_heads, key_dim, value_dim, in_key = s.kv_heads, s.key_dim, s.value_dim, False
        for o in others:
            if o.first_layer <= layer <= (last if o.last_layer < 0 else o.last_layer):
                kv_heads, key_dim = o.kv_heads or s.kv_heads, o.key_dim or s.key_dim
                value_dim, in_key = o.value_dim or s.value_dim, bool(o.value_in_key)
        return Shape(s.heads, kv_heads, key_dim, value_dim, in_key)

    def shape(self, layer: int) -> Shape:
        """Heads and dims of a layer."""
        if not 0 <= layer < len(self._shapes):
            raise ArgumentError(f"layer {layer} of a plan with {len(self._shapes)} layers")
        return self._shapes[layer]

    def __str__(self):
        """Everything that was decided, for people."""
        self._check_open()
        length = raw["banyan_plan_text"](self, None, 0)
        text = C.create_string_buffer(length + 1)
        raw["banyan_plan_text"](self, text, length + 1)
        return text.value.decode(errors="replace")

    @property
    def hash(self) -> int:
        return raw["banyan_plan_hash"](self)

    @property
    def merge(self) -> str:
        """The merge that is taken: asked for, or the cheapest."""
        return raw["banyan_plan_merge_name"](self).decode()

    def holds(self, layer: int, kv_head: int, rank: Optional[int] = None) -> bool:
        """Does `rank` (this one) hold a part of a KV head? Only then are its q, k and v read."""
        rank = self.comm.rank if rank is None else rank
        return bool(raw["banyan_plan_holds"](self, layer, kv_head, rank))

    def home(self, layer: int, head: int) -> int:
        """The rank on which attend writes the output of a query head."""
        return raw["banyan_plan_home"](self, layer, head)

    def owner(self, layer: int, kv_head: int, block: int, turn: int = 0) -> int:
        """The rank that keeps a block of a KV head in a sequence of this turn that is no fork."""
        return raw["banyan_plan_owner"](self, turn, layer, kv_head, block)

    def reads(self, layer: int, head: int, row: int, token: int) -> bool:
        """Does the row at token `row` of a query head read token `token`?"""
        return bool(raw["banyan_plan_reads"](self, layer, head, row, token))

    def share(self, rank: int, tokens: int, sequences: int = 1) -> _abi.Share:
        """What a rank gets when `sequences` sequences of `tokens` tokens each are cached."""
        share = _abi.Share()
        call("banyan_plan_share", self, rank, sequences, tokens, C.byref(share))
        return share

    def cache(self, stream: Optional[int] = None) -> "Cache":
        """This rank's memory. stream: a cudaStream_t as an int, with device "cuda"."""
        return Cache(self, stream)

    def open(self, folder: str, stream: Optional[int] = None) -> "Cache":
        """A cache with what a snapshot has (Cache.save), whatever ranks and placement that was
        saved with; its sequences are cache.sequences."""
        return Cache(self, stream, folder)

    def _repr_html_(self):
        from .show import line
        return line(self)


@dataclass
class Part:
    """Rows of one sequence, at tokens at .. at+rows-1; see banyan_rows in banyan.h.

    first, end: only tokens first .. end-1 count (0, 0: all). probes: [(first, end), ..], whose
    softmax mass is written to `mass` [probes][rows][heads] float32; `strongest` [rows][heads]
    int64 gets the token of the largest score.
    """

    sequence: "Sequence"
    at: int
    rows: int
    first: int = 0
    end: int = 0
    probes: Seq[Tuple[int, int]] = ()
    mass: Any = None
    strongest: Any = None


class Sequence(_Handle):
    """One sequence in a cache. All ranks make and close the same ones in the same order."""

    _destroy = "banyan_sequence_destroy"

    def __init__(self, cache: "Cache", turn: int, parent: Optional["Sequence"] = None,
                 tokens: int = 0, index: Optional[int] = None):
        super().__init__(cache)
        cache._check_open()
        self.cache = cache
        with self._lock:
            if index is not None:
                call("banyan_sequence_open", cache, index, C.byref(self._as_parameter_))
            elif parent is None:
                call("banyan_sequence_create", cache, turn, C.byref(self._as_parameter_))
            else:
                parent._check_open()
                call("banyan_sequence_fork", parent, tokens, turn, C.byref(self._as_parameter_))
        self._opened()

    def fork(self, tokens: Optional[int] = None, turn: int = 0) -> "Sequence":
        """A second sequence that begins with the first `tokens` (all) tokens of this one and
        shares their memory."""
        return Sequence(self.cache, turn, self, len(self) if tokens is None else tokens)

    def __len__(self):
        """Tokens in the longest layer."""
        return max(0, self.length(-1))

    def length(self, layer: int) -> int:
        """Tokens in a layer; -1 outside the plan."""
        self._check_open()
        return raw["banyan_sequence_length"](self, layer)

    def owner(self, layer: int, kv_head: int, block: int) -> int:
        """The rank that keeps (or will keep) a block of a KV head."""
        return raw["banyan_sequence_owner"](self, layer, kv_head, block)


class Cache(_Handle):
    """This rank's keys and values of all sequences: `banyan_cache`. Collective."""

    _destroy = "banyan_cache_destroy"

    def __init__(self, plan: Plan, stream: Optional[int] = None, folder: Optional[str] = None):
        super().__init__(plan)
        plan._check_open()
        self.plan = plan
        if folder is None:
            call("banyan_cache_create", plan, stream, C.byref(self._as_parameter_))
        else:
            call("banyan_cache_open", plan, stream, os.fsencode(folder),
                 C.byref(self._as_parameter_))
        self._opened()
        #: of an opened cache: its sequences, in the order in which they were saved
        self.sequences = [Sequence(self, 0, index=i)
                          for i in range(raw["banyan_cache_sequences"](self))]

    def save(self, folder: str, note: bytes = b"") -> None:
        """Writes all sequences to a folder that all ranks see, with a note of the caller's own
        (rank 0's); a snapshot that is there is replaced once the new one is whole. Collective."""
        self._check_open()
        with self._lock:
            call("banyan_cache_save", self, os.fsencode(folder), note, len(note))

    def sequence(self, turn: int = 0) -> Sequence:
        """An empty sequence; different turns balance the ranks when sequences are short."""
        return Sequence(self, turn)

    @property
    def stats(self) -> _abi.Stats:
        stats = _abi.Stats()
        raw["banyan_cache_stats"](self, C.byref(stats))
        return stats

    def wait(self) -> None:
        """Until all calls on the cache are done; on the CPU they are when they return."""
        call("banyan_cache_wait", self)

    def attend(self, layer: int, parts: Union[Part, Seq[Part]], q=None, k=None, v=None, out=None,
               lse=None):
        """Appends k and v of the parts' tokens to one layer, and attends causally.

        The parts' rows stand one behind the other:
            q [all rows][heads][key_dim], or None: append only
            k [all rows][kv_heads][key_dim], v [all rows][kv_heads][value_dim]; both None: attend
                only; v None alone: values are a part of the keys (value_in_key)
            out [all rows][heads][value_dim], lse [all rows][heads] float32 (natural log) or None
        q, k and v are of the plan's in_dtype, out of its out_dtype, in row-major order, on the
        plan's device; nothing is copied. Of q, k and v only the heads that this rank holds are
        read, and out and lse are written for heads whose home this is. Collective. Returns out,
        which is made (zeros) where it is not given and q is a torch tensor or a numpy array.
        """
        self._check_open()
        plan = self.plan
        shape = plan.shape(layer)
        parts = [parts] if isinstance(parts, Part) else parts
        rows = sum(p.rows for p in parts)
        device, kind = plan.device, plan.in_dtype
        if out is None and q is not None:
            out = _zeros_like(q, (rows, shape.heads, shape.value_dim), plan.out_dtype)
        address = _arrays.address
        pointers = (
            address("q", q, (rows, shape.heads, shape.key_dim), kind, device),
            address("k", k, (rows, shape.kv_heads, shape.key_dim), kind, device),
            address("v", v, (rows, shape.kv_heads, shape.value_dim), kind, device),
            address("out", out, (rows, shape.heads, shape.value_dim), plan.out_dtype, device,
                    write=True),
            address("lse", lse, (rows, shape.heads), Dtype.F32, device, write=True))
        batch, keep = _batch(parts, shape.heads, device)
        with self._lock:
            call("banyan_attend", self, layer, batch, len(parts), *pointers)
        del keep
        return out

    def combine(self, layer: int, outs: Seq[Any], lses: Seq[Any], out, lse=None) -> None:
        """Joins results of the same rows that attended to different tokens (parts with ranges),
        and adds the layer's sinks once. outs, lses: as attend wrote them."""
        shape, rows = self.plan.shape(layer), _arrays.borrow(out).shape[0]
        full, kind = (rows, shape.heads, shape.value_dim), self.plan.out_dtype
        device = self.plan.device
        if len(outs) != len(lses):
            raise ArgumentError(f"{len(outs)} outs and {len(lses)} lses; expected as many")
        a = [_arrays.address("outs", x, full, kind, device) for x in outs]
        b = [_arrays.address("lses", x, full[:2], Dtype.F32, device) for x in lses]
        to = (_arrays.address("out", out, full, kind, device, write=True),
              _arrays.address("lse", lse, full[:2], Dtype.F32, device, write=True))
        with self._lock:
            call("banyan_combine", self, layer, rows, len(a), (C.c_void_p * len(a))(*a),
                 (C.c_void_p * len(b))(*b), *to)


def _batch(parts, heads, device):
    """The parts as banyan_rows, and what must live as long as the call."""
    batch, keep = (_abi.Rows * max(1, len(parts)))(), []
    for row, p in zip(batch, parts):
        p.sequence._check_open()
        row.sequence, row.at, row.rows = p.sequence._as_parameter_, p.at, p.rows
        row.first, row.end = p.first, p.end
        if p.probes:
            ranges = (_abi.Range * len(p.probes))(*p.probes)
            keep.append(ranges)
            row.probes, row.probe_count = C.addressof(ranges), len(p.probes)
            row.mass = _arrays.address("mass", p.mass, (len(p.probes), p.rows, heads), Dtype.F32,
                                       device, write=True)
        if p.strongest is not None:
            row.strongest = _arrays.address("strongest", p.strongest, (p.rows, heads), "int64",
                                            device, write=True)
    return batch, keep


def _zeros_like(q, shape, kind):
    name = {Dtype.F32: "float32", Dtype.BF16: "bfloat16", Dtype.F16: "float16"}[kind]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(q, torch.Tensor):
        return torch.zeros(shape, dtype=getattr(torch, name), device=q.device)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(q, numpy.ndarray) and kind != Dtype.BF16:
        return numpy.zeros(shape, name)
    raise ArgumentError("out is needed: results can be made here for torch tensors and for numpy "
                        "arrays of fp32 and fp16 alone")


def snapshot_note(folder: str) -> bytes:
    """The note that Cache.save was given."""
    length = C.c_size_t()
    call("banyan_snapshot_note", os.fsencode(folder), None, 0, C.byref(length))
    note = C.create_string_buffer(max(1, length.value))
    call("banyan_snapshot_note", os.fsencode(folder), note, length.value, C.byref(length))
    return note.raw[:length.value]


def launched() -> bool:
    """Did an MPI launcher start this process?"""
    return any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"))
