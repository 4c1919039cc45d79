# SPDX-License-Identifier: Apache-2.0
"""Prefill with the rows cut over ranks, decoding, and what a row thinks of the next token."""
from typing import Callable, Iterable, List, Optional, Sequence as Seq

import torch

from ..core import Comm, Part
from ..errors import ArgumentError
from .attention import BanyanCache
from .rows import Step, cut


class Runner:
    """A model and its cache on the ranks of a comm; every rank calls the same methods.

    Keywords are BanyanCache's. Weights are replicated: each rank has all of them.
    """

    def __init__(self, model, comm: Comm, **cache):
        self.model, self.comm = model.eval(), comm
        self.cache = BanyanCache(model, comm, **cache)
        self.device = next(model.parameters()).device
        self.lengths: List[int] = []

    def close(self):
        self.cache.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @torch.no_grad()
    def _forward(self, step: Step, ids, rows: slice, keep):
        """Rows of a step through the model, on this rank. keep: the rows, counted from rows.start,
        whose logits are wanted. Returns them, [kept][vocabulary]."""
        positions = [p.at + i for p in step.parts for i in range(p.rows)]
        self.cache.step = step
        try:
            return self.model(
                input_ids=torch.tensor([ids[rows]], device=self.device),
                position_ids=torch.tensor([positions[rows]], device=self.device),
                cache=self.cache, use_cache=True,
                logits_to_keep=torch.tensor(keep, dtype=torch.long, device=self.device)).logits[0]
        finally:
            self.cache.step = None

    def _cut_step(self, parts, ids, wanted: Seq[int]):
        """A step with its rows cut. wanted: rows whose logits all ranks get."""
        comm, step = self.comm, cut(parts, self.comm.size)
        low, high = step.slice(comm.rank)
        owner = [next(r for r in range(comm.size) if step.bounds[r] <= w < step.bounds[r + 1])
                 for w in wanted]
        mine = [w - low for w, r in zip(wanted, owner) if r == comm.rank]
        logits = self._forward(step, ids, slice(low, high), mine).float().cpu()
        if comm.size == 1:
            return logits
        whole = torch.empty(len(wanted), logits.shape[-1])
        by_rank = [[i for i, r in enumerate(owner) if r == rank] for rank in range(comm.size)]
        arrived = {r: torch.empty(len(of), logits.shape[-1]) for r, of in enumerate(by_rank)
                   if of and r != comm.rank}
        message = lambda rank, t: (rank, t.data_ptr(), t.numel() * 4)  # noqa: E731
        logits = logits.contiguous()
        comm.exchange([message(r, logits) for r in range(comm.size) if r != comm.rank and mine],
                      [message(r, t) for r, t in arrived.items()])
        arrived[comm.rank] = logits
        for rank, t in arrived.items():
            whole[by_rank[rank]] = t
        return whole

    def begin(self, count: int) -> None:
        """Forgets all sequences, and begins `count` empty ones. Collective."""
        self.cache.reset()
        self.cache.sequences = [self.cache.cache.sequence(turn=i) for i in range(count)]
        self.lengths = [0] * count

    def _steps(self, prompts: Seq[Seq[int]]):
        """The prompts in steps of at most max_rows rows: (parts, ids, [(prompt, rows), ..])."""
        most = self.cache.plan.spec.max_rows
        parts, ids, members = [], [], []
        for i, prompt in enumerate(prompts):
            done = 0
            while done < len(prompt):
                if len(ids) == most:
                    yield parts, ids, members
                    parts, ids, members = [], [], []
                count = min(len(prompt) - done, most - len(ids))
                parts.append(Part(self.cache.sequences[i], self.lengths[i], count))
                members.append((i, count))
                ids += prompt[done:done + count]
                self.lengths[i] += count
                done += count
        if ids:
            yield parts, ids, members

    def extend(self, prompts: Seq[Seq[int]]) -> torch.Tensor:
        """Appends tokens to every sequence; the logits after the last of each, [sequences]
        [vocabulary] fp32, on every rank. Collective."""
        self._check(prompts)
        left, found = [len(p) for p in prompts], {}
        for parts, ids, members in self._steps(prompts):
            ends, row = [], 0
            for i, count in members:
                row, left[i] = row + count, left[i] - count
                if left[i] == 0:
                    ends.append((i, row - 1))
            logits = self._cut_step(parts, ids, [row for _, row in ends])
            found.update({i: logits[n] for n, (i, _) in enumerate(ends)})
        return torch.stack([found[i] for i in range(len(prompts))])

    def logits(self, prompts: Seq[Seq[int]]) -> List[torch.Tensor]:
        """The logits of every row, [rows][vocabulary] fp32 a prompt, from new sequences."""
        self._check(prompts, fresh=True)
        self.begin(len(prompts))
        found: List[list] = [[] for _ in prompts]
        for parts, ids, members in self._steps(prompts):
            logits, row = self._cut_step(parts, ids, range(len(ids))), 0
            for i, count in members:
                found[i].append(logits[row:row + count])
                row += count
        return [torch.cat(of) for of in found]

    def _check(self, prompts, fresh=False):
        most = self.cache.plan.spec.max_tokens
        for i, prompt in enumerate(prompts):
            if not len(prompt):
                raise ArgumentError(f"prompt {i} has no tokens")
            length = len(prompt) + (0 if fresh else self.lengths[i])
            if length > most:
                raise ArgumentError(f"prompt {i}: {length} tokens, the cache was made for "
                                    f"{most} (max_tokens); nothing is cut off")

    def decode(self, tokens: Seq[int]) -> torch.Tensor:
        """One token more for each sequence; every rank repeats these rows. [sequences]
        [vocabulary] fp32."""
        parts = [Part(s, n, 1) for s, n in zip(self.cache.sequences, self.lengths)]
        self.lengths = [n + 1 for n in self.lengths]
        count = len(parts)
        return self._forward(Step(parts, None), list(tokens), slice(0, count),
                             range(count)).float().cpu()

    def generate(self, prompts: Seq[Seq[int]], max_new_tokens: int = 16, *,
                 eos: Iterable[int] = (), choose: Optional[Callable] = None,
                 on_tokens: Optional[Callable] = None,
                 stop: Optional[Callable] = None) -> List[List[int]]:
        """The tokens that follow each prompt, an eos included. Prompts may differ in length.

        choose: from logits [sequences][vocabulary] to ids; greedy when None. Rank 0's choice is
        every rank's. on_tokens: called with each step's ids (None for a sequence that has ended).
        stop: from (sequence, its ids so far) to whether it has ended.
        """
        eos = set(eos)
        self.begin(len(prompts))
        room = self.cache.plan.spec.max_tokens
        for i, prompt in enumerate(prompts):
            if len(prompt) + max_new_tokens > room:
                raise ArgumentError(f"prompt {i} has {len(prompt)} tokens and {max_new_tokens} "
                                    f"are to follow; the cache was made for {room} (max_tokens)")
        logits = self.extend(prompts)
        made: List[List[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        for n in range(max_new_tokens):
            ids = self._choose(logits, choose)
            for i, token in enumerate(ids):
                if not ended[i]:
                    made[i].append(token)
            if on_tokens:
                on_tokens([None if ended[i] else t for i, t in enumerate(ids)])
            ended = [e or ids[i] in eos or bool(stop and stop(i, made[i]))
                     for i, e in enumerate(ended)]
            if all(ended) or n + 1 == max_new_tokens:
                break
            logits = self.decode(ids)
        return made

    def _choose(self, logits, choose):
        if not bool(torch.isfinite(logits).all()):
            row = int((~torch.isfinite(logits)).any(-1).nonzero()[0])
            raise ArithmeticError(f"rank {self.comm.rank}: logits of sequence {row} are not finite")
        ids = None
        if self.comm.rank == 0:
            ids = (choose(logits) if choose else logits.argmax(-1)).tolist()
        return self.comm.broadcast(ids) if self.comm.size > 1 else ids
