# SPDX-License-Identifier: Apache-2.0
"""Attention of a few rows in Python's own floats, and the arrays that go with it."""
import math
import random
from array import array


def matrix(values, *shape):
    """A writable float32 buffer of this shape."""
    flat = array("f", values)
    return memoryview(flat).cast("B").cast("f", shape)


def zeros(*shape):
    return matrix([0.0] * math.prod(shape), *shape)


def noise(seed, *shape):
    numbers = random.Random(seed)
    return matrix([numbers.gauss(0, 1) for _ in range(math.prod(shape))], *shape)


def attend(q, keys, values, sees):
    """One row: q [dim], keys [tokens][dim], values likewise; sees(token). (out, lse)."""
    scale = 1 / math.sqrt(len(q))
    seen = [t for t in range(len(keys)) if sees(t)]
    scores = [scale * sum(a * b for a, b in zip(q, keys[t])) for t in seen]
    most = max(scores)
    weights = [math.exp(s - most) for s in scores]
    total = sum(weights)
    out = [sum(w * values[t][d] for w, t in zip(weights, seen)) / total
           for d in range(len(values[0]))]
    return out, most + math.log(total)


def vector(m, *index):
    """The last axis of a buffer at an index of the others."""
    return [m[(*index, i)] for i in range(m.shape[-1])]
