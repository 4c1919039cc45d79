#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our kernels beside their peers on one GPU, in one process, taking turns.

bench.py --library libbanyan_lane.so [--stage bench|shapes | --rows NAME,..] [--after NAME] [--seconds S]

Ceilings are measured first: the rate of a device copy (bytes read and written), and of a bf16 matrix
product. Each row then says what bounds it, and its ratio. Shapes are those of Llama-3-8B (32 query
heads, 8 KV heads, dim 128, one sequence) unless the row says otherwise. Operations of attention are
counted as 4 x heads x dim x visible (query, key) pairs. Times are those of the GPU: as many calls
between two events as fill 20 ms of it, divided; only rows that say so have the latency of one call.
Medians over repetitions, with (third quartile - first) / median beside them; warm-up is left out.
A row that cannot run says why, and rows that need more memory than the device has are left out.

Prints "@ NAME SECONDS" ahead of each row, and lines of JSON: watch.py ends rows that take longer.
"""
import argparse
import ctypes
import itertools
import json
import math
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BLOCK = 64
S2 = "s2 stride=16 local=16"


# ---- ours --------------------------------------------------------------------------------------


class Lane:
    """One plan and cache; arrays are torch tensors [rows][heads][dim] on the GPU. again: its tokens may
    be appended again from the beginning (and so none are evicted). sequences: a call has so many rows of
    each, one sequence's behind the other's. value_dim: where it is not dim, values are in the keys."""

    lib = None

    @classmethod
    def load(cls, path):
        lib = ctypes.CDLL(path)
        p, i, n, s = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong, ctypes.c_char_p
        lib.lane_open.restype = p
        lib.lane_open.argtypes = [i, i, i, i, i, i, i, i, s, n, i, i, s, s, s, p]
        lib.lane_attend.argtypes = [p, i, n, i, p, p, p, p, p]
        lib.lane_pairs.restype = lib.lane_bytes.restype = n
        lib.lane_pairs.argtypes = lib.lane_bytes.argtypes = lib.lane_close.argtypes = [p]
        lib.lane_error.restype = s
        cls.lib = lib

    def __init__(self, tokens, use="dense", heads=32, kv_heads=8, dim=128, rows=65536, layers=1,
                 dense_layers=0, cache="bf16", kernel="", again=False, value_dim=0, block=BLOCK,
                 sequences=1):
        self.heads, self.kv_heads, self.dim, self.tokens = heads, kv_heads, dim, tokens
        self.value_dim, self.sequences = value_dim or dim, sequences
        self.rows, self.layers = min(rows, tokens), layers
        self.stream = torch.cuda.current_stream()
        if not self.stream.cuda_stream:
            # NULL asks for a stream of the cache's own, which torch's events know nothing of
            raise RuntimeError("the default stream is current; a lane must share one with torch")
        self.handle = self.lib.lane_open(heads, kv_heads, dim, self.value_dim, block, sequences,
                                         layers, dense_layers, use.encode(), tokens, self.rows,
                                         tokens if again else 0, b"bf16", cache.encode(),
                                         kernel.encode(), self.stream.cuda_stream)
        if not self.handle:
            raise RuntimeError(self.lib.lane_error().decode())

    def attend(self, layer, at, rows, q=None, k=None, v=None, out=None, lse=None):
        a = [t.data_ptr() if t is not None else None for t in (q, k, v, out, lse)]
        if self.lib.lane_attend(self.handle, layer, at, rows, *a):
            raise RuntimeError(self.lib.lane_error().decode())

    def fill(self):
        """Random keys and values for all tokens of all layers."""
        k = torch.randn(self.rows * self.sequences, self.kv_heads, self.dim, device="cuda",
                        dtype=torch.bfloat16)
        v = torch.randn_like(k) if self.value_dim == self.dim else None
        for layer in range(self.layers):
            for at in range(0, self.tokens, self.rows):
                rows = min(self.rows, self.tokens - at)
                for x in (k, v):
                    if x is not None:
                        x.normal_()
                self.attend(layer, at, rows, k=k, v=v)
        torch.cuda.synchronize()
        return self

    def bytes_read(self):
        return self.lib.lane_bytes(self.handle)

    def pairs(self):
        return self.lib.lane_pairs(self.handle)

    def close(self):
        torch.cuda.synchronize()
        self.lib.lane_close(self.handle)
        self.handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


# ---- measuring ---------------------------------------------------------------------------------


FILL_SECONDS = 0.02


def timed(call, count):
    """Seconds of the GPU for each of `count` calls, one behind the other."""
    begin, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        call()
    stop.record()
    stop.synchronize()
    return begin.elapsed_time(stop) / 1000 / count


def turns(ways, seconds=2.0, least=5, most=200, single=False):
    """{name: call} -> {name: (median seconds, spread)}; calls take turns until the time is used. Single:
    one call at a time, with what the host does for it."""
    counts = {}
    for name, call in ways.items():
        timed(call, 1)
        counts[name] = 1 if single else min(500, math.ceil(FILL_SECONDS / timed(call, 2)))
    times = {name: [] for name in ways}
    end = time.time() + seconds
    for turn in range(most):
        if turn >= least and time.time() > end:
            break
        for name, call in ways.items():
            times[name].append(timed(call, counts[name]))
    result = {}
    for name, t in times.items():
        m = statistics.median(t)
        q = statistics.quantiles(t, n=4) if len(t) > 1 else [m, m, m]
        result[name] = (m, (q[2] - q[0]) / m)
    return result


class Bench:
    def __init__(self, seconds):
        self.seconds, self.failed = seconds, False
        self.copy_rate = self.product_rate = None

    def line(self, row, **fields):
        self.failed = self.failed or "error" in fields
        print(json.dumps({"row": row, **fields}), flush=True)

    def time(self, **ways):
        return turns(ways, self.seconds)

    def ceilings(self):
        a = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_()
        b = torch.empty_like(a)
        n = 8192
        x, y = normal(n, n), normal(n, n)
        t = self.time(copy=lambda: b.copy_(a), product=lambda: x @ y)
        self.copy_rate = 2 * a.numel() / t["copy"][0]
        self.product_rate = 2 * n**3 / t["product"][0]
        self.line("copy", GBps=self.copy_rate / 1e9, spread=t["copy"][1])
        self.line("bf16 product", TFLOPps=self.product_rate / 1e12, spread=t["product"][1])


def decode_call(lane, layer=0, rows=1):
    """The last rows (of each sequence)."""
    count = rows * lane.sequences
    q, out = normal(count, lane.heads, lane.dim), normal(count, lane.heads, lane.value_dim)
    return lambda: lane.attend(layer, lane.tokens - rows, rows, q=q, out=out)


def in_turn(*calls):
    """Each call is of another cache, so that what one has read is gone from the L2 when it comes again."""
    following = itertools.cycle(calls)
    return lambda: next(following)()


ROWS = {}


def row(seconds, gib, stage="bench"):
    """A row that may take so long, and that needs so much of the device's memory."""
    def add(f):
        ROWS[f.__name__] = (f, seconds, gib, stage)
        return f
    return add


# ---- rows ---------------------------------------------------------------------------------------


@row(16, 6)
def decode_dense(b):
    for tokens in (131072, 1048576):
        with Lane(tokens).fill() as lane:
            bound = lane.bytes_read() / b.copy_rate
            t = b.time(ours=decode_call(lane))["ours"]
            b.line(f"decode dense bf16 {tokens}", bound="copy rate", us=t[0] * 1e6, spread=t[1],
                   ratio=bound / t[0], bar=">= 0.93", aim=0.97)


@row(16, 10)
def decode_s2(b):
    with Lane(1048576, S2).fill() as one, Lane(1048576, S2).fill() as two:
        bound = one.bytes_read() / b.copy_rate
        call = in_turn(decode_call(one), decode_call(two))
        t = b.time(ours=call)["ours"]
        single = turns({"ours": call}, 0.5, single=True)["ours"]
    b.line("decode S2 1048576", bound="copy rate", us=t[0] * 1e6, spread=t[1],
           ratio=bound / t[0], floor_us=bound * 1e6, bar="<= 1.2 x bytes / copy rate")
    b.line("decode S2 1048576, one call with its host's part", us=single[0] * 1e6,
           spread=single[1], ratio=bound / single[0])


@row(16, 10)
def decode_graph(b):
    """32 calls replayed from a graph: without the launches' overhead on the host."""
    calls = 32
    with Lane(1048576, S2).fill() as one, Lane(1048576, S2).fill() as two:
        bound = one.bytes_read() / b.copy_rate
        call = in_turn(decode_call(one), decode_call(two))
        call(), call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=one.stream):
            for _ in range(calls):
                call()
        t = b.time(graph=graph.replay)["graph"]
    b.line("decode S2 1048576, in a graph", bound="copy rate", us=t[0] / calls * 1e6, spread=t[1],
           ratio=bound * calls / t[0], floor_us=bound * 1e6, bar="<= 1.2 x bytes / copy rate")


@row(16, 9)
def decode_fp8(b):
    with Lane(1048576).fill() as two, Lane(1048576, cache="fp8").fill() as one:
        t = b.time(bf16=decode_call(two), fp8=decode_call(one))
        b.line("decode fp8 dense 1048576", bound="own bf16", us=t["fp8"][0] * 1e6,
               spread=t["fp8"][1], bf16_us=t["bf16"][0] * 1e6, ratio=t["bf16"][0] / t["fp8"][0],
               bar=">= 1.8", aim=1.9)


@row(14, 6)
def combine(b):
    """How much later the combine ends than the decode ahead of it, from the profiler. (Its own duration
    is as long as the decode's: it is started early, and waits.)"""
    from torch.profiler import ProfilerActivity, profile

    with Lane(1048576).fill() as lane:
        call = decode_call(lane)
        call()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as p:
            for _ in range(20):
                call()
            torch.cuda.synchronize()
        kernels = sorted(((e.time_range.start, e.time_range.end, e.name) for e in p.events()
                          if "combine_parts" in e.name or "decode_" in e.name))
        later = [c[1] - d[1] for d, c in zip(kernels, kernels[1:])
                 if "combine_parts" in c[2] and "combine_parts" not in d[2]]
        if not later:
            raise RuntimeError("the profiler saw no combine behind a decode")
        b.line("combine of the partials of all multiprocessors: its end behind the decode's",
               us=statistics.median(later), count=len(later), bar="<= 6 us", aim="4 us")


@row(35, 4)
def prefill(b):
    """Dense causal prefill, 64 query and 8 KV heads, against what torch brings."""
    heads, kv, dim = 64, 8, 128
    for tokens in (16384, 32768):
        q, k, v = normal(tokens, heads, dim), normal(tokens, kv, dim), normal(tokens, kv, dim)
        out = torch.empty_like(q)
        qt, kt, vt = (x.transpose(0, 1)[None].contiguous() for x in (q, k, v))

        def sdpa(backend):
            def call():
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(qt, kt, vt, is_causal=True,
                                                          enable_gqa=True)
            return call

        with Lane(tokens, heads=heads, kv_heads=kv, rows=tokens, again=True) as lane:
            lane.attend(0, 0, tokens, k=k, v=v)
            ways = {"ours": lambda: lane.attend(0, 0, tokens, q=q, out=out),
                    "with append": lambda: lane.attend(0, 0, tokens, q=q, k=k, v=v, out=out)}
            errors = {}
            for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION),
                                  ("fa2", SDPBackend.FLASH_ATTENTION)):
                try:
                    want = sdpa(backend)()
                    ways[name] = sdpa(backend)
                    lane.attend(0, 0, tokens, q=q, out=out)
                    d = (want[0].transpose(0, 1).float() - out.float()).abs().max()
                    errors[name] = float(d)
                except RuntimeError as e:
                    b.line(f"prefill dense {tokens}: {name}", error=str(e))
            t = b.time(**ways)
            work = 4 * heads * dim * tokens * (tokens + 1) / 2
            b.line(f"prefill dense causal {tokens}", TFLOPps=work / t["ours"][0] / 1e12,
                   spread=t["ours"][1], of_product_rate=work / t["ours"][0] / b.product_rate,
                   with_append_TFLOPps=work / t["with append"][0] / 1e12,
                   peers={n: work / t[n][0] / 1e12 for n in ("cudnn", "fa2") if n in t},
                   over={n: t[n][0] / t["ours"][0] for n in ("cudnn", "fa2") if n in t},
                   largest_difference=errors,
                   bar=">= 0.90 x cudnn, >= 1.5 x fa2", aim="1.0, 1.8")


@row(14, 2)
def prefill_64(b):
    """Rows that see (nearly) everything: the last rows of a long context, dim 64 against dim 128."""
    rate = {}
    tokens, rows, heads, kv = 65536, 2048, 64, 8
    for dim in (64, 128):
        q, out = normal(rows, heads, dim), normal(rows, heads, dim)
        with Lane(tokens, heads=heads, kv_heads=kv, dim=dim, rows=16384).fill() as lane:
            t = b.time(ours=lambda: lane.attend(0, tokens - rows, rows, q=q, out=out))["ours"]
        pairs = rows * (tokens - rows) + rows * (rows + 1) / 2
        rate[dim] = 4 * heads * dim * pairs / t[0] / 1e12
    b.line("prefill d 64, full", TFLOPps=rate[64], d128_TFLOPps=rate[128],
           ratio=rate[64] / rate[128], bar=">= 0.70", aim=0.75)


def one_pass(lane, rows):
    """Prefill of all tokens in calls of `rows` rows; keys and values come along."""
    q, k = normal(rows, lane.heads, lane.dim), normal(rows, lane.kv_heads, lane.dim)
    v, out = torch.randn_like(k), torch.empty_like(q)

    def call():
        for at in range(0, lane.tokens, rows):
            lane.attend(0, at, rows, q=q, k=k, v=v, out=out)
    return call


def visible_work(lane, call):
    """Operations of one pass, from the (row, block) pairs that the library counts."""
    before = lane.pairs()
    call()
    torch.cuda.synchronize()
    return 4 * lane.dim * (lane.pairs() - before) * BLOCK


def fa2_causal(tokens, heads=32, kv=8, dim=128):
    q, k, v = (normal(1, h, tokens, dim) for h in (heads, kv, kv))

    def call():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return call


@row(50, 12)
def sparse(b):
    tokens = 131072
    with Lane(tokens, S2, rows=32768, again=True) as lane, \
            Lane(tokens, rows=32768, again=True) as dense:
        ours, all_of_it = one_pass(lane, 32768), one_pass(dense, 32768)
        work, dense_work = visible_work(lane, ours), visible_work(dense, all_of_it)
        t = turns({"ours": ours, "dense": all_of_it, "fa2": fa2_causal(tokens)}, b.seconds, 3)
    rate, dense_rate = work / t["ours"][0], dense_work / t["dense"][0]
    b.line(f"prefill S2 {tokens}: efficiency", TFLOPps=rate / 1e12, dense_TFLOPps=dense_rate / 1e12,
           ratio=rate / dense_rate, spread=t["ours"][1], bar=">= 0.85", aim=0.92)
    b.line(f"prefill S2 {tokens}: time", ms=t["ours"][0] * 1e3, fa2_ms=t["fa2"][0] * 1e3,
           ratio=t["fa2"][0] / t["ours"][0], bar=">= 18 x", aim=21)
    million = 1048576
    with Lane(million, S2, rows=65536, again=True) as lane:
        m = turns({"ours": one_pass(lane, 65536)}, b.seconds, 2)["ours"]
    fa2 = t["fa2"][0] * (million / tokens) ** 2
    b.line("prefill S2 1048576 (FA2 extrapolated from 131072 by the square of the length)",
           s=m[0], fa2_s=fa2, ratio=fa2 / m[0], spread=m[1], bar=">= 22 x", aim=25.3)


def s2_lists(tokens, kv_heads, group, stride=16, local=16):
    """The same mask as block lists for flex_attention: partial (own) and full blocks, per head."""
    n = tokens // BLOCK
    own = torch.arange(n, device="cuda")[:, None]
    other = torch.arange(n, device="cuda")[None, :]
    full = torch.stack([(other < own) & ((own - other < local) | ((other + h) % stride == 0))
                        for h in range(kv_heads)]).repeat_interleave(group, 0)[None]
    counts = full.sum(-1).to(torch.int32)
    order = torch.argsort(full.to(torch.int8), dim=-1, descending=True, stable=True)
    part_counts = torch.ones(1, kv_heads * group, n, device="cuda", dtype=torch.int32)
    part = torch.zeros(1, kv_heads * group, n, n, device="cuda", dtype=torch.int32)
    part[..., 0] = torch.arange(n, device="cuda", dtype=torch.int32)
    return part_counts, part, counts, order.to(torch.int32)


@row(45, 16)
def flex(b):
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    # Blocks of the mask are 64 x 64, so the kernel's must not be larger.
    options = {"BLOCK_M": BLOCK, "BLOCK_N": BLOCK, "num_warps": 4}
    for tokens in (32768, 131072):
        lists = s2_lists(tokens, 8, 4)
        mask = BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=BLOCK,
                                        mask_mod=lambda _b, _h, q, k: q >= k)
        del lists
        q, k, v = normal(1, 32, tokens, 128), normal(1, 8, tokens, 128), normal(1, 8, tokens, 128)
        with Lane(tokens, S2, rows=tokens) as lane:
            rows = [x[0].transpose(0, 1).contiguous() for x in (q, k, v)]
            out = torch.empty_like(rows[0])
            lane.attend(0, 0, tokens, k=rows[1], v=rows[2])
            theirs = lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True,
                                      kernel_options=options)
            ours = lambda: lane.attend(0, 0, tokens, q=rows[0], out=out)
            want = theirs()
            ours()
            off = float((want[0].transpose(0, 1).float() - out.float()).abs().max())
            t = b.time(ours=ours, flex=theirs)
        b.line(f"S2 {tokens} against flex_attention", ms=t["ours"][0] * 1e3,
               flex_ms=t["flex"][0] * 1e3, ratio=t["flex"][0] / t["ours"][0],
               spread=t["ours"][1], largest_difference=off, bar=">= 1.5 x", aim=2)


@row(30, 132)
def capacity(b):
    """2^24 tokens of Llama-3-8B in fp8: kernel and cache capacity on synthetic keys and values."""
    tokens, layers = 1 << 24, 32
    with Lane(tokens, S2, layers=layers, dense_layers=2, cache="fp8", rows=65536).fill() as lane:
        calls = [decode_call(lane, layer) for layer in range(layers)]

        def step():
            for call in calls:
                call()
        t = b.time(step=step)["step"]
    b.line("capacity: 16 Mi tokens resident, decode step of 32 layers", ms=t[0] * 1e3,
           spread=t[1], bar="<= 40 ms", aim="34 ms")


# ---- the stage "shapes" ------------------------------------------------------------------------


@row(60, 6, "shapes")
def dims(b):
    """By the width of heads: a decoded row of 65536 tokens, and the last 2048 rows; 16 query heads, 8 KV
    heads. Dim 128 is what the others are to be compared with."""
    tokens, rows, heads = 65536, 2048, 16
    for dim, cache, block in ((128, "bf16", 64), (96, "bf16", 64), (256, "bf16", 64),
                              (256, "fp8", 64), (128, "bf16", 128), (128, "bf16", 32)):
        name = f"dim {dim} {cache}" + (f", blocks of {block}" if block != BLOCK else "")
        with Lane(tokens, heads=heads, dim=dim, rows=16384, cache=cache, block=block).fill() as lane:
            bound = lane.bytes_read() / b.copy_rate
            t = b.time(decode=decode_call(lane), prefill=decode_call(lane, rows=rows))
        work = 4 * heads * dim * (rows * (tokens - rows) + rows * (rows + 1) / 2)
        b.line(f"decode {tokens}, {name}", bound="copy rate", us=t["decode"][0] * 1e6,
               spread=t["decode"][1], ratio=bound / t["decode"][0])
        b.line(f"prefill, {rows} rows behind {tokens}, {name}", spread=t["prefill"][1],
               TFLOPps=work / t["prefill"][0] / 1e12,
               of_product_rate=work / t["prefill"][0] / b.product_rate)


@row(40, 2, "shapes")
def latent(b):
    """DeepSeek's latent attention over 131072 tokens: keys of 576 numbers, of which 512 are the value."""
    tokens, key, value = 131072, 576, 512
    for heads in (16, 128):
        with Lane(tokens, heads=heads, kv_heads=1, dim=key, value_dim=value, rows=16384).fill() as lane:
            bound = lane.bytes_read() / b.copy_rate
            t = b.time(**{f"{rows}": decode_call(lane, rows=rows) for rows in (1, 4)})
        for rows, (seconds, spread) in t.items():
            work = 2 * heads * int(rows) * tokens * (key + value)
            b.line(f"latent decode {tokens}, {heads} heads, rows: {rows}", bound="copy rate",
                   us=seconds * 1e6, spread=spread, ratio=bound / seconds,
                   TFLOPps=work / seconds / 1e12)


@row(30, 20, "shapes")
def batch(b):
    """A decoded row of each of 64 sequences of 2000 tokens, in one call."""
    for dim, heads, kv in ((128, 32, 8), (256, 16, 8)):
        with Lane(2000, heads=heads, kv_heads=kv, dim=dim, rows=500, sequences=64).fill() as lane:
            bound = lane.bytes_read() / b.copy_rate
            t = b.time(ours=decode_call(lane))["ours"]
        b.line(f"decode of 64 sequences of 2000, dim {dim}", bound="copy rate", us=t[0] * 1e6,
               spread=t[1], ratio=bound / t[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--stage", choices=("bench", "shapes"), default="bench")
    parser.add_argument("--rows", help="these, of any stage")
    parser.add_argument("--after", help="only the rows behind this one")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each comparison")
    args = parser.parse_args()
    rows = args.rows.split(",") if args.rows else [n for n, r in ROWS.items() if r[3] == args.stage]
    unknown = [r for r in rows if r not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]}; there are {', '.join(ROWS)}")
    if args.after in rows:
        rows = rows[rows.index(args.after) + 1:]
    Lane.load(os.path.abspath(args.library))
    b = Bench(args.seconds)
    with torch.cuda.stream(torch.cuda.Stream()):
        print("@ ceilings 14", flush=True)
        b.line("machine", gpu=torch.cuda.get_device_name(), torch=torch.__version__,
               cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
        b.ceilings()
        for name in rows:
            run_row(b, name)
    return 1 if b.failed else 0


def run_row(b, name):
    f, seconds, gib, _ = ROWS[name]
    print(f"@ {name} {seconds}", flush=True)
    have = torch.cuda.mem_get_info()[0] / 2**30
    if gib > have:
        b.line(name, skipped=f"needs {gib} GiB of the device's memory; {have:.0f} are free")
        return
    try:
        f(b)
    except Exception as e:  # a row that fails must not cost the others
        b.line(name, error=" ".join(str(e).split())[:300])
    torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
