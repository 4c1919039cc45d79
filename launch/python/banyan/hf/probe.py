# SPDX-License-Identifier: Apache-2.0
"""What the attention layers of a model look like, found by running one token through it.

Configs spell heads, dims, scales, windows and sinks differently in every model; what arrives at the
attention function is the truth for all of them, and so is the mask that the layer would be given.
"""
import contextlib
from typing import List, NamedTuple, Optional

import torch

from ..errors import Unsupported

_recorded: Optional[dict] = None  # while a probe runs: layer -> Layer


class Layer(NamedTuple):
    """One attention layer, as the attention function sees it."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    scale: float
    window: int  # tokens that a row sees, its own included; 0: all up to it
    sinks: Optional[torch.Tensor]  # [heads] logits, fp32
    dtype: torch.dtype


class _Window:
    """What the mask function returns in a probe, in place of a mask."""

    def __init__(self, window):
        self.window = window


def is_running() -> bool:
    return _recorded is not None


def mask(mask_function, local_size):
    """The window of a mask function, which must be causal and may slide; else Unsupported."""
    window = int(local_size or 0)
    far = window or 40
    for row in (0, 1, far - 1, far, far + 1, 2 * far + 3):
        for token in {0, 1, row - far - 1, row - far, row - far + 1, row - 1, row, row + 1}:
            if token < 0:
                continue
            seen = mask_function(*(torch.tensor(i) for i in (0, 0, row, token)))
            if bool(seen) != (token <= row and (not window or token > row - window)):
                raise Unsupported(f"a mask that is neither causal nor a sliding window: row {row} "
                                  f"{'sees' if seen else 'does not see'} token {token}"
                                  + (f", window {window}" if window else ""))
    return _Window(window)


def record(module, query, key, value, attention_mask, scaling, sinks):
    """The attention function's part in a probe: returns zeros."""
    heads, kv_heads = query.shape[1], key.shape[1]
    window = attention_mask.window if isinstance(attention_mask, _Window) else 0
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    _recorded[module.layer_idx] = Layer(
        heads, kv_heads, query.shape[-1], value.shape[-1], scale, window,
        None if sinks is None else sinks.detach().float().cpu(), query.dtype)
    return query.new_zeros(query.shape[0], query.shape[2], heads, value.shape[-1]), None


@contextlib.contextmanager
def _recording():
    global _recorded
    _recorded = {}
    try:
        yield _recorded
    finally:
        _recorded = None


def describe(model) -> List[Layer]:
    """The attention layers of a model, in order. Unsupported for a model with layers that do not
    attend through transformers' attention interface, or with query heads that differ."""
    from . import attention  # registers "banyan"
    if model.config._attn_implementation != attention.NAME:
        model.set_attn_implementation(attention.NAME)
    device = next(model.parameters()).device
    with torch.no_grad(), _recording() as found:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
        layers = dict(found)
    count = model.config.get_text_config().num_hidden_layers
    missing = [i for i in range(count) if i not in layers]
    if missing or len(layers) != count:
        raise Unsupported(f"layers {missing} of {type(model).__name__} do not attend through "
                          "transformers' attention interface (as recurrent and linear attention "
                          "does not), and only such layers can be cut over ranks")
    if len({layer.heads for layer in layers.values()}) > 1:
        raise Unsupported("layers with unequal numbers of query heads: "
                          f"{sorted({l.heads for l in layers.values()})}")
    return [layers[i] for i in range(count)]
