# SPDX-License-Identifier: Apache-2.0
"""From logits to ids by chance, in transformers' own steps."""
import torch
from transformers.generation import (LogitsProcessorList, TemperatureLogitsWarper,
                                     TopKLogitsWarper, TopPLogitsWarper)


def sampler(temperature: float, top_p: float = 1.0, top_k: int = 0, seed: int = 0):
    """A `choose` of Runner.generate; None (greedy) for temperature 0. The seed alone decides: only
    rank 0 chooses."""
    if temperature <= 0:
        return None
    steps = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k > 0:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    generator = torch.Generator().manual_seed(seed)

    def choose(logits):
        return torch.multinomial(steps(None, logits).softmax(-1), 1, generator=generator)[:, 0]
    return choose
