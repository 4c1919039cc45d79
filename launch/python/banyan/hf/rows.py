# SPDX-License-Identifier: Apache-2.0
"""Rows on their way: q, k and v to the ranks that keep the heads, results back to the rows' ranks.

In a prefill each rank computes a slice of a step's rows. The cache never moves, so rows do:

    q        from the row's rank to every holder of the head
    k, v     from the row's rank to the rank that owns the row's block of the head
    results  from the head's home to the row's rank

Who sends what to whom follows from the plan, alike on every rank: no sizes are exchanged.
"""
from typing import List, NamedTuple, Tuple

import torch

from ..core import Comm, Part


class Step(NamedTuple):
    """The rows of one call: the parts' rows stand one behind the other."""

    parts: List[Part]
    bounds: List[int]  # [ranks + 1]: rank r computes rows bounds[r] .. bounds[r + 1] - 1

    @property
    def rows(self) -> int:
        return self.bounds[-1]

    def slice(self, rank: int) -> Tuple[int, int]:
        """The rows that a rank runs through the model. One that has none repeats the last row,
        since layers need not stand an empty input; nobody reads what it makes of it."""
        low, high = self.bounds[rank], self.bounds[rank + 1]
        return (low, high) if low < high else (self.rows - 1, self.rows)


def cut(parts: List[Part], ranks: int) -> Step:
    """Consecutive slices, as equal as can be."""
    rows = sum(p.rows for p in parts)
    return Step(parts, [rows * r // ranks for r in range(ranks + 1)])


class LayerRows:
    """Who holds what of one layer of a plan."""

    def __init__(self, plan, layer: int):
        shape, ranks = plan.shape(layer), plan.comm.size
        self.layer, self.block_tokens = layer, plan.spec.block_tokens
        group = shape.heads // shape.kv_heads
        self.kv_heads = [[h for h in range(shape.kv_heads) if plan.holds(layer, h, r)]
                         for r in range(ranks)]
        self.heads = [[h * group + i for h in held for i in range(group)]
                      for held in self.kv_heads]
        homes = [plan.home(layer, h) for h in range(shape.heads)]
        self.home = [[h for h, r in enumerate(homes) if r == rank] for rank in range(ranks)]
        self.holders = [sum(h in held for held in self.kv_heads) for h in range(shape.kv_heads)]

    def owned(self, step: Step, rank: int, low: int, high: int):
        """Of rows low .. high-1, the (row, KV head) pairs whose block `rank` owns: two lists."""
        rows, heads = [], []
        for h in self.kv_heads[rank]:
            if self.holders[h] == 1:
                mine = range(low, high)
            else:
                mine = self._rows_of(step, rank, h, low, high)
            rows.extend(mine)
            heads.extend([h] * len(mine))
        return rows, heads

    def _rows_of(self, step, rank, kv_head, low, high):
        found, start = [], 0
        for p in step.parts:
            first, last = max(low, start), min(high, start + p.rows)
            while first < last:
                block = (p.at + first - start) // self.block_tokens
                end = min(last, start + (block + 1) * self.block_tokens - p.at)
                if p.sequence.owner(self.layer, kv_head, block) == rank:
                    found.extend(range(first, end))
                first = end
            start += p.rows
        return found


class Mover:
    """Moves the rows of the layers of one plan. Tensors that MPI cannot read are staged."""

    def __init__(self, plan):
        self.comm: Comm = plan.comm
        self.layers = [LayerRows(plan, layer) for layer in range(plan.spec.layers)]

    def _exchange(self, sends, recvs):
        """sends, recvs: (peer, tensor); what has no elements is not sent. Returns the received."""
        sends = [(peer, t.contiguous().cpu()) for peer, t in sends if t.numel()]
        self.comm.exchange(*([(peer, t.data_ptr(), t.numel() * t.element_size())
                              for peer, t in messages if t.numel()] for messages in (sends, recvs)))

    def gather(self, layer: int, step: Step, q, k, v):
        """This rank's slice of q [slice][heads][dim], k and v to [step.rows][..] arrays, in which
        all is there that this rank's part of the cache needs."""
        to, me, ranks = self.layers[layer], self.comm.rank, self.comm.size
        mine_low, mine_high = step.bounds[me], step.bounds[me + 1]
        whole = [torch.empty(step.rows, *x.shape[1:], dtype=x.dtype, device=x.device)
                 for x in (q, k, v)]
        sends, recvs, places = [], [], []
        for rank in range(ranks):
            rows, heads = to.owned(step, rank, mine_low, mine_high)
            local = torch.tensor(rows, dtype=torch.long) - mine_low
            heads = torch.tensor(heads, dtype=torch.long)
            pieces = [q[:mine_high - mine_low, to.heads[rank]], k[local, heads], v[local, heads]]
            if rank == me:
                whole[0][mine_low:mine_high, to.heads[me]] = pieces[0]
                whole[1][local + mine_low, heads], whole[2][local + mine_low, heads] = pieces[1:]
                continue
            sends += [(rank, piece) for piece in pieces]
            low, high = step.bounds[rank], step.bounds[rank + 1]
            rows, heads = to.owned(step, me, low, high)
            shapes = [(high - low, len(to.heads[me]), q.shape[2]), (len(rows), k.shape[2]),
                      (len(rows), v.shape[2])]
            arrived = [torch.empty(s, dtype=q.dtype) for s in shapes]
            recvs += [(rank, x) for x in arrived]
            places.append((low, high, torch.tensor(rows, dtype=torch.long),
                           torch.tensor(heads, dtype=torch.long), arrived))
        self._exchange(sends, recvs)
        for low, high, rows, heads, arrived in places:
            whole[0][low:high, to.heads[me]] = arrived[0].to(q.device)
            whole[1][rows, heads] = arrived[1].to(q.device)
            whole[2][rows, heads] = arrived[2].to(q.device)
        return whole

    def results(self, layer: int, wanted: List[Tuple[int, int]], out):
        """out [rows][heads][dim], written for the heads whose home this is, to this rank's rows
        with all heads. wanted[r]: the rows first .. end-1 that rank r needs."""
        to, me = self.layers[layer], self.comm.rank
        low, high = wanted[me]
        mine = out[low:high].clone()
        sends, recvs = [], []
        for rank, (first, end) in enumerate(wanted):
            if rank == me:
                continue
            sends.append((rank, out[first:end, to.home[me]]))
            recvs.append((rank, torch.empty(high - low, len(to.home[rank]), out.shape[2],
                                            dtype=out.dtype)))
        self._exchange(sends, recvs)
        for rank, arrived in recvs:
            mine[:, to.home[rank]] = arrived.to(out.device)
        return mine
