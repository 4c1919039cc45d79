# SPDX-License-Identifier: Apache-2.0
"""transformers' side: an attention function, a mask function and a cache that owns nothing."""
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from ..core import Comm, LayerShape, Part, Plan, Rule
from ..errors import ArgumentError, Unsupported
from . import probe
from .rows import Mover, Step

NAME = "banyan"
# Arguments of attention functions that change nothing here.
_HARMLESS = {"sliding_window", "s_aux", "position_ids", "use_cache", "output_attentions",
             "output_hidden_states", "output_router_logits", "is_causal", "cu_seq_lens_q",
             "cu_seq_lens_k", "max_length_q", "max_length_k", "logits_to_keep", "return_dict",
             "cache_position", "token_type_ids", "labels"}


def _refuse(module, dropout, arguments):
    """What would change the result and is not done here."""
    if dropout:
        raise Unsupported(f"dropout {dropout} in attention: call model.eval()")
    if not getattr(module, "is_causal", True):
        raise Unsupported(f"{type(module).__name__} attends in both directions")
    for name, value in arguments.items():
        if name in _HARMLESS or value is None or value is False:
            continue
        raise Unsupported(f"{type(module).__name__} asks its attention for {name}"
                          f"{'' if isinstance(value, torch.Tensor) else f' = {value}'}, which "
                          "banyan does not do")


def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, banyan=None,
              **arguments):
    """query [batch][heads][rows][key_dim], key, value likewise with KV heads: the rows of this
    call. Returns ([batch][rows][heads][value_dim], None)."""
    _refuse(module, dropout, arguments)
    if probe.is_running():
        return probe.record(module, query, key, value, attention_mask, scaling,
                            arguments.get("s_aux"))
    if banyan is None:
        raise ArgumentError("no cache: pass cache=banyan.hf.BanyanCache(model, comm, ..)")
    return banyan._attend(module.layer_idx, query, key, value, attention_mask), None


def mask(batch_size, q_length, kv_length, mask_function=None, attention_mask=None,
         local_size=None, allow_is_causal_skip=True, **kwargs):
    """No mask is made: None, or with left padding the padding itself [batch][tokens]."""
    if probe.is_running():
        return probe.mask(mask_function, local_size)
    if not allow_is_causal_skip:
        raise Unsupported("a mask with overlays of the model's own")
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)


class _Layer(CacheLayerMixin):
    """Answers for lengths; holds no keys."""

    is_sliding = False
    is_croppable = True

    def __init__(self, cache):
        super().__init__()
        self._cache, self.is_initialized = cache, True

    def lazy_initialization(self, key_states, value_states):
        pass

    def update(self, key_states, value_states, *args, **kwargs):
        raise NotImplementedError  # BanyanCache.update does it

    def get_mask_sizes(self, query_length):
        return self._cache.columns + query_length, 0

    def get_seq_length(self):
        return self._cache.columns

    def get_max_length(self):
        return self._cache.plan.spec.max_tokens

    def offload(self):
        pass

    def prefetch(self):
        pass

    def reorder_cache(self, beam_idx):
        raise Unsupported("beam search")


class BanyanCache(Cache):
    """The cache of a model's keys and values, cut over the ranks of `comm`. Collective.

    model: loaded with attn_implementation="banyan" (or it is set here). rules: as in Plan; they
    replace the model's own windows where they match. sequences: prompts in a batch. Other keywords
    are fields of the plan: max_tokens, max_rows, cache_dtype (the model's dtype), device, ..
    close() gives the memory back.
    """

    is_compileable = False

    def __init__(self, model, comm: Comm, *, max_tokens: int, rules=(), sequences: int = 1,
                 max_rows: int = 512, **fields):
        layers = probe.describe(model)
        windows = [Rule(f"sink_window sink=0 window={l.window}t", i, i)
                   for i, l in enumerate(layers) if l.window]
        first = layers[0]
        shapes = [LayerShape(i, i, l.kv_heads, l.key_dim, l.value_dim, l.scale)
                  for i, l in enumerate(layers) if l[1:5] != first[1:5]]
        sinks = None
        if any(l.sinks is not None for l in layers):
            none = [float("-inf")] * first.heads
            sinks = [none if l.sinks is None else l.sinks.tolist() for l in layers]
        fields.setdefault("cache_dtype", first.dtype)
        fields.setdefault("in_dtype", first.dtype)
        fields.setdefault("out_dtype", first.dtype)
        fields.setdefault("pool_tokens", max_tokens * sequences)
        fields.setdefault("device", next(model.parameters()).device.type)
        rules = [rules] if isinstance(rules, str) else list(rules)
        self.plan = Plan(comm, layers=len(layers), heads=first.heads, kv_heads=first.kv_heads,
                         key_dim=first.key_dim, value_dim=first.value_dim, scale=first.scale,
                         rules=windows + rules, shapes=shapes, sinks=sinks,
                         max_tokens=max_tokens, max_rows=max_rows, sequences=sequences, **fields)
        self.cache = self.plan.cache()
        self.mover = Mover(self.plan)
        self.sequences, self.step = [], None
        self.columns = 0  # tokens of the longest sequence and its padding, as transformers counts
        self._begin, self._first_layer = 0, None
        super().__init__(layers=[_Layer(self) for _ in layers])

    def close(self):
        self.plan.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def reset(self):
        """Forgets all sequences."""
        for sequence in self.sequences:
            sequence.close()
        self.sequences, self.columns, self._first_layer = [], 0, None

    def crop(self, tokens):
        """Forgets the last tokens (at most rollback_tokens of the plan)."""
        self.columns -= abs(tokens) if tokens < 0 else max(0, self.columns - tokens)

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Gives this cache to the attention function through the dict that the model splats into
        it, and returns the new keys and values as they are."""
        if "kwargs" not in kwargs:
            raise Unsupported("this model's attention does not pass its arguments to its cache")
        kwargs["kwargs"]["banyan"] = self
        return key_states, value_states

    def _attend(self, layer, query, key, value, padding):
        if self.step is not None and self.step.bounds is not None:
            return self._attend_slice(layer, query, key, value)
        if self.step is not None:
            out = self._attend_all(layer, self.step.parts, *(x[0].transpose(0, 1) for x in
                                                            (query, key, value)))
            return out.unsqueeze(0)
        return self._attend_batch(layer, query, key, value, padding)

    def _attend_slice(self, layer, query, key, value):
        """A step whose rows are cut: this rank's slice in, its slice out."""
        step = self.step
        q, k, v = self.mover.gather(layer, step, *(x[0].transpose(0, 1) for x in
                                                   (query, key, value)))
        out = self._buffer(step.rows, layer, q)
        self.cache.attend(layer, step.parts, q, k, v, out)
        wanted = [step.slice(rank) for rank in range(self.plan.comm.size)]
        return self.mover.results(layer, wanted, out).unsqueeze(0)

    def _attend_all(self, layer, parts, q, k, v):
        """All rows on every rank; as many at a time as the plan allows."""
        out = self._buffer(q.shape[0], layer, q)
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        for start, some in _by_rows(parts, self.plan.spec.max_rows):
            rows = slice(start, start + sum(p.rows for p in some))
            self.cache.attend(layer, some, q[rows], k[rows], v[rows], out[rows])
        if self.plan.comm.size == 1:
            return out
        return self.mover.results(layer, [(0, q.shape[0])] * self.plan.comm.size, out)

    def _attend_batch(self, layer, query, key, value, padding):
        """transformers' own loop: [batch][heads][rows], with padding on the left."""
        batch, _, rows, _ = query.shape
        if self._first_layer in (None, layer):  # a forward begins
            self._first_layer, self._begin = layer, self.columns
            self.columns += rows
        while len(self.sequences) < batch:
            self.sequences.append(self.cache.sequence(turn=len(self.sequences)))
        if batch != len(self.sequences):
            raise ArgumentError(f"a batch of {batch}; this cache has {len(self.sequences)} "
                                "sequences: reset() it before another batch")
        left = _left_padding(padding, batch)
        parts, keep = [], []
        for b, sequence in enumerate(self.sequences):
            skip = min(rows, max(0, left[b] - self._begin))
            keep.append(slice(skip, rows))
            if skip < rows:
                parts.append(Part(sequence, self._begin + skip - left[b], rows - skip))
        packed = [torch.cat([x[b, :, keep[b]] for b in range(batch)], 1).transpose(0, 1)
                  for x in (query, key, value)]
        found = self._attend_all(layer, parts, *packed)
        out, start = found.new_zeros(batch, rows, *found.shape[1:]), 0
        for b in range(batch):
            count = keep[b].stop - keep[b].start
            out[b, keep[b]] = found[start:start + count]
            start += count
        return out

    def _buffer(self, rows, layer, q):
        shape = self.plan.shape(layer)
        return q.new_zeros(rows, shape.heads, shape.value_dim)


def _left_padding(padding, batch):
    """Tokens of padding of each row of a batch; Unsupported when not all are on the left."""
    if padding is None:
        return [0] * batch
    left = (~padding.bool()).sum(-1).tolist()
    for b, count in enumerate(left):
        if bool(padding[b, :count].any()):
            raise Unsupported(f"row {b} of the batch is padded on the right: pad on the left")
    return left


def _by_rows(parts, most):
    """(first row, parts) of at most `most` rows; a part that is longer is cut."""
    some, start, rows, done = [], 0, 0, 0
    for p in parts:
        at, left = p.at, p.rows
        while left:
            if rows == most:
                yield start, some
                some, start, rows = [], done, 0
            count = min(left, most - rows)
            some.append(Part(p.sequence, at, count))
            at, left, rows, done = at + count, left - count, rows + count, done + count
    if some:
        yield start, some


__all__ = ["BanyanCache", "NAME", "Step"]
