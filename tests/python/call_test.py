# SPDX-License-Identifier: Apache-2.0
"""call_test.py [MOST_US]: what a call from Python costs over C's own time: a decoded row of one layer
through Cache.attend, and the same through the bare function with prepared pointers, in turns. Prints
both medians in microseconds; fails when the difference is more than MOST_US."""
import ctypes as C
import statistics
import sys
import time

import torch

import banyan
from banyan import Part, _abi
from banyan._library import raw

torch.set_num_threads(1)
comm = banyan.Comm("self")
plan = banyan.Plan(comm, layers=1, heads=8, kv_heads=2, key_dim=64, max_tokens=4096, threads=1)
cache = plan.cache()
sequence = cache.sequence()
q, k, v = torch.randn(1, 8, 64), torch.randn(1, 2, 64), torch.randn(1, 2, 64)
out, lse = torch.zeros(1, 8, 64), torch.zeros(1, 8)
times = {"python": [], "c": []}
batch = (_abi.Rows * 1)()
batch[0].sequence, batch[0].rows = sequence._as_parameter_, 1
function, clock = raw["banyan_attend"], time.perf_counter
pointers = [C.c_void_p(t.data_ptr()) for t in (q, k, v, out, lse)]
for step in range(2000):
    at = step * 2
    if at > 4000:
        break
    begin = clock()
    cache.attend(0, Part(sequence, at, 1), q, k, v, out, lse)
    middle = clock()
    batch[0].at = at + 1
    before = clock()
    status = function(cache, 0, batch, 1, *pointers)
    end = clock()
    assert not status
    times["python"].append(middle - begin)
    times["c"].append(end - before)
python, c = (statistics.median(times[n][100:]) * 1e6 for n in ("python", "c"))
print(f"a call from Python {python:.1f} us, of C {c:.1f} us: {python - c:.1f} us more")
if len(sys.argv) > 1 and python - c > float(sys.argv[1]):
    sys.exit(f"more than {sys.argv[1]} us")
