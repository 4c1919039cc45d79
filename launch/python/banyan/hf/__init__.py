# SPDX-License-Identifier: Apache-2.0
"""Any model that goes through transformers' attention interface, its cache cut over ranks.

    model = AutoModelForCausalLM.from_pretrained(DIR, attn_implementation="banyan")
    runner = banyan.hf.Runner(model, comm, max_tokens=1 << 20, rules=["s2 stride=8 local=16"])
    ids = runner.generate([prompt_ids], max_new_tokens=32)

A prefill cuts rows: each rank runs the model's own layers on its slice, and the attention function
moves q, k and v to the ranks that keep the heads, and results back. Weights are on every rank. Or
with transformers' own generate, where every rank repeats all rows:

    model.generate(ids, cache=banyan.hf.BanyanCache(model, comm, max_tokens=4096))

What cannot be done exactly is refused in words: soft caps of scores, attention to given tokens,
position biases, dropout, masks that are neither causal nor a sliding window.
"""
from .attention import BanyanCache
from .probe import Layer, describe
from .runner import Runner

__all__ = ["BanyanCache", "Layer", "Runner", "describe"]
