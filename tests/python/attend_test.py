# SPDX-License-Identifier: Apache-2.0
"""Attention from Python, without numpy or torch, on any number of ranks, against Python's floats:
prefill and decode of several sequences, patterns, forks, ranges, wrong calls, what is closed."""
import shutil
import sys
import tempfile
import unittest
from array import array

import banyan
from banyan import Part
from oracle import attend, matrix, noise, vector, zeros

HEADS, KV_HEADS, DIM, BLOCK = 4, 2, 16, 16
comm = banyan.Comm()


def plan(**fields):
    options = dict(layers=1, heads=HEADS, kv_heads=KV_HEADS, key_dim=DIM, max_tokens=256,
                   block_tokens=BLOCK, cache_dtype="fp32", threads=1, max_rows=64)
    return banyan.Plan(comm, **{**options, **fields})


class Run:
    """The rows of one sequence, and what they must come to."""

    def __init__(self, seed, tokens):
        self.q = noise(seed, tokens, HEADS, DIM)
        self.k, self.v = noise(seed + 1, tokens, KV_HEADS, DIM), noise(seed + 2, tokens, KV_HEADS, DIM)

    def rows(self, at, count):
        """q, k, v of some rows, as buffers of their own."""
        return [matrix([x for t in range(at, at + count) for h in range(m.shape[1])
                        for x in vector(m, t, h)], count, *m.shape[1:]) for m in
                (self.q, self.k, self.v)]

    def expected(self, row, head, sees=lambda token: True):
        kv = head // (HEADS // KV_HEADS)
        return attend(vector(self.q, row, head), [vector(self.k, t, kv) for t in range(row + 1)],
                      [vector(self.v, t, kv) for t in range(row + 1)], sees)


class Attend(unittest.TestCase):
    def check(self, the_plan, run, out, lse, first, at, count, sees=None):
        """Rows at .. of a run, in out from row `first` on; homes only."""
        for i in range(count):
            for head in range(HEADS):
                if the_plan.home(0, head) != comm.rank:
                    continue
                row = at + i
                seen = (lambda t: the_plan.reads(0, head, row, t)) if sees is None else sees
                want, want_lse = run.expected(row, head, seen)
                for a, b in zip(vector(out, first + i, head), want):
                    self.assertAlmostEqual(a, b, delta=2e-5)
                self.assertAlmostEqual(lse[first + i, head], want_lse, delta=2e-5)

    def test_prefill_and_decode_of_two_sequences(self):
        for rules in ((), "s2 stride=2 local=1", ["sink_window sink=1 window=24t"]):
            for placement in ("line", "spread"):
                with plan(rules=rules, sequences=2, placement=placement, pool_tokens=512) as p:
                    cache = p.cache()
                    runs = [Run(10, 50), Run(20, 41)]
                    sequences = [cache.sequence(turn=i) for i in range(2)]
                    for (a0, a1), (b0, b1) in (((0, 40), (0, 10)), ((40, 41), (10, 30)),
                                               ((41, 50), (30, 41))):
                        a, b = runs[0].rows(a0, a1 - a0), runs[1].rows(b0, b1 - b0)
                        q, k, v = [matrix(list(memoryview(x).cast("B").cast("f")) +
                                          list(memoryview(y).cast("B").cast("f")),
                                          x.shape[0] + y.shape[0], *x.shape[1:])
                                   for x, y in zip(a, b)]
                        n = q.shape[0]
                        out, lse = zeros(n, HEADS, DIM), zeros(n, HEADS)
                        parts = [Part(sequences[0], a0, a1 - a0), Part(sequences[1], b0, b1 - b0)]
                        cache.attend(0, parts, q, k, v, out, lse)
                        self.check(p, runs[0], out, lse, 0, a0, a1 - a0)
                        self.check(p, runs[1], out, lse, a1 - a0, b0, b1 - b0)
                    self.assertEqual([len(s) for s in sequences], [50, 41])

    def test_fork(self):
        with plan(sequences=2, pool_tokens=512) as p:
            cache, run = p.cache(), Run(30, 60)
            first = cache.sequence()
            out, lse = zeros(40, HEADS, DIM), zeros(40, HEADS)
            cache.attend(0, Part(first, 0, 40), *run.rows(0, 40), out, lse)
            with first.fork(turn=1) as second:
                self.assertEqual(len(second), 40)
                out, lse = zeros(20, HEADS, DIM), zeros(20, HEADS)
                cache.attend(0, [Part(second, 40, 20)], *run.rows(40, 20), out, lse)
                self.check(p, run, out, lse, 0, 40, 20)
            self.assertEqual(len(first), 40)

    def test_ranges_are_combined(self):
        with plan() as p:
            cache, run = p.cache(), Run(40, 48)
            s = cache.sequence()
            cache.attend(0, Part(s, 0, 48), None, *run.rows(0, 48)[1:])
            q = run.rows(47, 1)[0]
            outs, lses = [zeros(1, HEADS, DIM) for _ in range(2)], [zeros(1, HEADS) for _ in range(2)]
            for (first, end), out, lse in zip(((0, 20), (20, 48)), outs, lses):
                cache.attend(0, Part(s, 47, 1, first, end), q, None, None, out, lse)
            out, lse = zeros(1, HEADS, DIM), zeros(1, HEADS)
            cache.combine(0, outs, lses, out, lse)
            self.check(p, run, out, lse, 0, 47, 1)


class Snapshot(unittest.TestCase):
    def test_save_and_open(self):
        folder = comm.broadcast(tempfile.mkdtemp() if comm.rank == 0 else None)
        run = Run(50, 60)
        try:
            with plan(sequences=2, pool_tokens=512) as p:
                cache = p.cache()
                s = cache.sequence()
                cache.attend(0, Part(s, 0, 40), None, *run.rows(0, 40)[1:])
                s.fork(30, turn=1)
                cache.save(folder, b"forty")
            self.assertEqual(banyan.snapshot_note(folder), b"forty")
            with plan(sequences=3, pool_tokens=512, placement="spread") as p:
                cache = p.open(folder)
                self.assertEqual([len(s) for s in cache.sequences], [40, 30])
                for s, at in zip(cache.sequences, (40, 30)):
                    out, lse = zeros(20, HEADS, DIM), zeros(20, HEADS)
                    cache.attend(0, Part(s, at, 20), *run.rows(at, 20), out, lse)
                    self.check_rows(p, run, out, lse, at, 20)
            with plan(kv_heads=4) as p, self.assertRaisesRegex(
                    banyan.ConfigError if comm.size == 1 else banyan.Error, "kv_heads is 4"):
                p.open(folder)
            with plan() as p, self.assertRaises(banyan.FileError):
                p.open(folder + "/none")
        finally:
            comm.agree()
            if comm.rank == 0:
                shutil.rmtree(folder)

    def check_rows(self, the_plan, run, out, lse, at, count):
        Attend.check(self, the_plan, run, out, lse, 0, at, count)


class Wrong(unittest.TestCase):
    """Each is refused in words, before the call, on every rank alike."""

    def setUp(self):
        self.plan = plan()
        self.cache = self.plan.cache()
        self.sequence = self.cache.sequence()
        self.arrays = dict(q=zeros(2, HEADS, DIM), k=zeros(2, KV_HEADS, DIM),
                           v=zeros(2, KV_HEADS, DIM), out=zeros(2, HEADS, DIM))

    def tearDown(self):
        self.plan.close()

    def refused(self, words, kind=ValueError, part=None, **changed):
        with self.assertRaisesRegex(kind, words) as caught:
            self.cache.attend(0, part or Part(self.sequence, 0, 2), **{**self.arrays, **changed})
        self.assertIsInstance(caught.exception, (banyan.Error, TypeError))

    def test_arrays(self):
        self.refused(r"q has shape \[1, 4, 16\]; expected \[2, 4, 16\]", q=zeros(1, HEADS, DIM))
        self.refused(r"k holds d; expected f32", k=memoryview(array("d", [0] * 64)).cast("B").cast(
            "d", (2, KV_HEADS, DIM)))
        self.refused("out is read-only", out=memoryview(bytes(self.arrays["out"])).cast(
            "f", (2, HEADS, DIM)))
        self.refused("lse has shape", lse=zeros(2, HEADS + 1))
        self.refused("a list is no array", TypeError, q=[1.0])
        self.refused("at .*7|gap", part=Part(self.sequence, 7, 2))

    def test_what_is_closed(self):
        self.sequence.close()
        self.refused("this Sequence is closed")
        self.cache.close()
        self.cache.close()
        self.refused("this Cache is closed")

    def test_plans(self):
        with self.assertRaisesRegex(banyan.ConfigError, "did you mean"):
            plan(rules="s2 strid=2")
        with self.assertRaisesRegex(banyan.ConfigError, "dens"):
            plan(rules="dens")
        with self.assertRaisesRegex(TypeError, "no field 'head'"):
            plan(head=1)
        with self.assertRaisesRegex(ValueError, "expected one of first, dealt"):
            plan(home="last")
        with self.assertRaisesRegex(ValueError, "sinks has 1 numbers"):
            plan(sinks=[[0.0]])
        with self.assertRaises(MemoryError):
            plan(memory_limit=1000)

    def test_words(self):
        self.assertIn("rank", str(self.plan))
        self.assertIn("<svg", self.plan._repr_html_())
        self.assertTrue(any(name == "s2" for name, _, _ in banyan.rows(banyan.Table.SELECTORS)))


class Comm(unittest.TestCase):
    def test_broadcast_and_agree(self):
        told = comm.broadcast({"ids": list(range(1000))} if comm.rank == 0 else None)
        self.assertEqual(told["ids"][-1], 999)
        comm.agree()
        if comm.size > 1:
            with self.assertRaises(banyan.Error):
                comm.agree(comm.rank != 1)

    def test_exchange(self):
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        mine, theirs = array("i", [comm.rank] * 8), array("i", [-1] * 8)
        comm.exchange([(right, mine.buffer_info()[0], 32)], [(left, theirs.buffer_info()[0], 32)])
        self.assertEqual(list(theirs), [left] * 8)


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=0).result
    comm.agree(result.wasSuccessful())
    sys.exit(not result.wasSuccessful())
