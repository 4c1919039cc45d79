# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness over the ranks of an MPI job; tasks run as they are:

    mpirun -np 2 python -m banyan.lm_eval run --model banyan \\
        --model_args pretrained=DIR --tasks niah_single_1 --metadata '{"max_seq_lengths":[4096]}'

--model_args are those of its model hf, and: rules (several divided by ;), max_rows, cache_dtype. Every
rank gets every request; rank 0 prints and writes. A prompt that does not fit is an error, it is
never cut. Its RULER tasks differ from the original: essays are not repeated when they are too short
for the length, and QA counts matched references instead of any match.
"""
import os

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from .. import core
from ..errors import ArgumentError
from ..hf import Runner
from ..hf.sample import sampler


@register_model("banyan")
class BanyanLM(HFLM):
    """HFLM whose model attends through banyan."""

    def __init__(self, pretrained, rules="", max_rows=2048, cache_dtype=None, device="cpu",
                 batch_size=1, **kwargs):
        if batch_size is not None and not str(batch_size).isdigit():
            raise ArgumentError(f"batch_size {batch_size}; expected a number: ranks would find "
                                "different sizes")
        if torch.cuda.is_available() and device == "cuda":
            device = f"cuda:{int(os.environ.get('BANYAN_LOCAL_RANK', 0))}"
        self._cache_fields = {"rules": [r for r in rules.split(";") if r.strip()],
                              "max_rows": int(max_rows)}
        if cache_dtype:
            self._cache_fields["cache_dtype"] = cache_dtype
        self._runner = None
        super().__init__(pretrained, device=device, batch_size=batch_size, **kwargs)
        self.comm = core.Comm()
        torch.set_num_threads(max(1, torch.get_num_threads() // self.comm.size))
        self._rank, self._world_size = 0, 1  # every rank answers every request
        os.environ["LOCAL_RANK"] = str(self.comm.rank)  # the harness prints where it is 0

    def _create_model(self, pretrained, **kwargs):
        super()._create_model(pretrained, **kwargs, attn_implementation="banyan")

    def _runner_for(self, sequences):
        """A runner with room for so many sequences, kept from call to call."""
        if self._runner and self._runner.cache.plan.spec.sequences < sequences:
            self._runner.close()
            self._runner = None
        if not self._runner:
            self._runner = Runner(self.model, self.comm, max_tokens=self.max_length,
                                  sequences=sequences, **self._cache_fields)
        return self._runner

    def tok_batch_encode(self, strings, padding_side="left", left_truncate_len=None,
                         truncation=False):
        ids, mask = super().tok_batch_encode(strings, padding_side, None, False)
        if left_truncate_len and ids.shape[1] > left_truncate_len:
            raise ArgumentError(f"a prompt of {ids.shape[1]} tokens, and {left_truncate_len} fit "
                                f"beside the answer (max_length {self.max_length}); nothing is "
                                "cut: ask for a shorter task or a longer max_length")
        return ids, mask

    def _model_call(self, inps, attn_mask=None, labels=None):
        prompts = inps.tolist()
        return torch.stack(self._runner_for(len(prompts)).logits(prompts)).to(inps.device)

    def _model_generate(self, context, max_length, stop, attention_mask=None, **kwargs):
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(context, attention_mask)]
        sample = kwargs.get("do_sample") is not False and kwargs.get("temperature", 0.0) > 0
        width = context.shape[1]
        made = self._runner_for(len(prompts)).generate(
            prompts, max_length - width, eos=[self.eot_token_id],
            choose=sampler(kwargs["temperature"], kwargs.get("top_p", 1.0),
                           kwargs.get("top_k", 0)) if sample else None,
            stop=lambda i, ids: any(s in self.tok_decode(ids[-64:]) for s in stop))
        longest = max(len(ids) for ids in made)
        out = torch.full((len(prompts), width + longest), self.tokenizer.pad_token_id or 0)
        out[:, :width] = context.cpu()
        for row, ids in zip(out, made):
            row[width:width + len(ids)] = torch.tensor(ids)
        return out
