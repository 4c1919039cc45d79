# SPDX-License-Identifier: Apache-2.0
"""Arrays of torch, numpy, ml_dtypes and DLPack are read where they lie, and refused in words."""
import ml_dtypes
import numpy as np
import torch

import banyan
from banyan import Part

HEADS, DIM, ROWS = 2, 16, 20
comm = banyan.Comm()


class OnlyDlpack:
    """An array of somebody else: DLPack is all that it has. old: from before DLPack 1.0."""

    def __init__(self, tensor, old=False):
        self._tensor, self._old = tensor, old

    def __dlpack__(self, **kwargs):
        if self._old and kwargs:
            raise TypeError("unexpected keyword")
        return self._tensor.__dlpack__(**kwargs)


def attend(q, k, v, out, dtype):
    with banyan.Plan(comm, layers=1, heads=HEADS, key_dim=DIM, max_tokens=64, in_dtype=dtype,
                     out_dtype=dtype, cache_dtype="fp32", out="all", threads=1) as plan:
        sequence = plan.cache().sequence()
        return sequence.cache.attend(0, Part(sequence, 0, ROWS), q, k, v, out)


def refused(words, call, kind=ValueError):
    try:
        call()
    except kind as error:
        assert words in str(error), f"{error!r} instead of {words!r}"
    else:
        raise AssertionError(f"not refused: {words}")


def main():
    torch.manual_seed(2)
    q, k, v = torch.randn(3, ROWS, HEADS, DIM)
    scores = torch.einsum("rhd,thd->hrt", q, k) / DIM ** 0.5
    scores = scores.masked_fill(torch.ones(ROWS, ROWS).triu(1).bool(), float("-inf"))
    expected = torch.einsum("hrt,thd->rhd", scores.softmax(-1), v)

    def close(out, bound=2e-6):
        out = torch.as_tensor(np.asarray(out, dtype=np.float32))
        assert (out - expected).abs().max() < bound

    close(attend(q, k, v, None, "fp32"))
    close(attend(q.numpy(), k.numpy(), v.numpy(), None, "fp32"))
    for old in (False, True):
        out = torch.zeros(ROWS, HEADS, DIM)
        attend(*(OnlyDlpack(x, old) for x in (q, k, v)), OnlyDlpack(out, old), "fp32")
        close(out)
    half = [x.bfloat16() for x in (q, k, v)]
    ours = attend(*half, None, "bf16")
    close(ours.float(), 4e-2)
    shared = [x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) for x in half]
    out = np.zeros((ROWS, HEADS, DIM), ml_dtypes.bfloat16)
    attend(*shared, out, "bf16")
    assert (out.astype(np.float32) == ours.float().numpy()).all(), "the same bits in bf16"

    out = torch.zeros(ROWS, HEADS, DIM)
    refused("q is not contiguous", lambda: attend(
        q.transpose(0, 1).contiguous().transpose(0, 1), k, v, out, "fp32"))
    refused("q holds bf16; expected f32", lambda: attend(half[0], k, v, out, "fp32"))
    frozen = np.zeros((ROWS, HEADS, DIM), np.float32)
    frozen.flags.writeable = False
    refused("out is read-only", lambda: attend(q, k, v, frozen, "fp32"))
    refused("out holds float64", lambda: attend(q, k, v, out.double(), "fp32"))
    learns = q.clone().requires_grad_()
    refused("requires a gradient", lambda: attend(learns, k, v, out, "fp32"))
    with torch.no_grad():
        close(attend(learns, k, v, None, "fp32"))
    refused("no array", lambda: attend("q", k, v, out, "fp32"), TypeError)
    if hasattr(torch, "empty") and torch.empty(1, device="meta").is_meta:
        refused("lies on meta", lambda: attend(q.to("meta"), k, v, out, "fp32"))


main()
