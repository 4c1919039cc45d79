# SPDX-License-Identifier: Apache-2.0
"""Random small models of ten families through banyan.hf, on any number of ranks, against eager
attention of transformers in fp32:

    logits of 700 tokens, prefilled in chunks with the rows cut over ranks     within 1e-5
    20 greedy tokens after prompts of unlike lengths, in one batch             the same ids
    transformers' own generate, a batch with padding on the left              the same ids

a batch of 8 prompts, and what must be refused. hf_test.py [FAMILY ..]"""
import sys

import torch
import transformers as T

import banyan
from banyan import hf

TOKENS, NEW = 700, 20
SMALL = dict(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=3,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096)
WIDE = dict(SMALL, head_dim=16)
MLA = dict(vocab_size=64, hidden_size=64, intermediate_size=64, moe_intermediate_size=32,
           num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4,
           num_experts_per_tok=2, n_group=1, topk_group=1, q_lora_rank=16, kv_lora_rank=16,
           qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=12, first_k_dense_replace=1,
           max_position_embeddings=4096)
EXPERTS = dict(num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32)
FAMILIES = {
    "llama": lambda: T.LlamaConfig(**WIDE),
    "qwen2": lambda: T.Qwen2Config(**SMALL),
    "qwen3": lambda: T.Qwen3Config(**WIDE),
    "qwen3_moe": lambda: T.Qwen3MoeConfig(**WIDE, **EXPERTS),
    "mistral": lambda: T.MistralConfig(**WIDE, sliding_window=100),
    "gemma3": lambda: T.Gemma3TextConfig(**WIDE, sliding_window=100),
    "gpt_oss": lambda: T.GptOssConfig(**WIDE, num_local_experts=2, num_experts_per_tok=1,
                                      sliding_window=100),
    "deepseek_v3": lambda: T.DeepseekV3Config(**MLA),
    "phi3": lambda: T.Phi3Config(**SMALL, pad_token_id=0),
}
REFUSED = {
    "gemma2": (lambda: T.Gemma2Config(**WIDE, sliding_window=100), "softcap"),
    "qwen3_next": (lambda: T.Qwen3NextConfig(**WIDE, **EXPERTS), "do not attend through"),
}
comm = banyan.Comm()


def make(config):
    torch.manual_seed(1)
    model = T.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "sinks" in name or "norm" in name:
                weight.add_(0.5 * torch.randn_like(weight))
    model.generation_config.eos_token_id = None
    return model


@torch.no_grad()
def greedy(model, ids):
    found = model.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False)
    return found[0, len(ids):].tolist()


@torch.no_grad()
def check(name, config):
    model = make(config)
    ids = torch.randint(1, 60, (TOKENS,)).tolist()
    prompts = [ids, ids[100:190], ids[5:6]]
    model.set_attn_implementation("eager")
    expected, expected_ids = model(torch.tensor([ids])).logits[0], [greedy(model, p) for p in prompts]

    room = dict(max_tokens=TOKENS + NEW, sequences=3, threads=1)
    with hf.Runner(model, comm, max_rows=200, **room) as runner:
        error = (runner.logits([ids])[0] - expected).abs().max().item()
        assert error <= 1e-5, f"{name}: logits differ by {error:.2e}"
        merges = runner.cache.cache.stats.merges
        found = runner.generate(prompts, NEW)
        assert found == expected_ids, f"{name}: {found} instead of {expected_ids}"
        steps = 4 + NEW - 1  # prefill: 791 rows by 200
        merges = runner.cache.cache.stats.merges - merges
        most = (steps + 4) * len(runner.cache)  # a panel has fewer rows than a step of 200
        assert merges <= most, f"{name}: {merges} merges for {steps} steps of a batch"

    longest = max(len(p) for p in prompts)
    batch = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    with hf.BanyanCache(model, comm, max_rows=150, **room) as cache:
        found = model.generate(batch, attention_mask=mask, cache=cache, max_new_tokens=NEW,
                               do_sample=False, pad_token_id=0)[:, longest:].tolist()
    assert found == expected_ids, f"{name}, generate of transformers: {found}"
    return error


@torch.no_grad()
def check_batch():
    """Eight prompts of 10 to 1,000 tokens: the ids of each alone, and a step of all is one merge a layer."""
    model = make(FAMILIES["llama"]())
    prompts = [torch.randint(1, 60, (n,)).tolist() for n in (10, 1000, 37, 512, 64, 250, 129, 800)]
    model.set_attn_implementation("eager")
    expected = [greedy(model, p) for p in prompts]
    with hf.Runner(model, comm, max_rows=256, max_tokens=1000 + NEW, sequences=8, threads=1) as runner:
        merges = []
        for new in (1, NEW):
            before = runner.cache.cache.stats.merges
            found = runner.generate(prompts, new)
            merges.append(runner.cache.cache.stats.merges - before)
        assert found == expected, f"a batch of 8: {found} instead of {expected}"
        alone = [runner.generate([p], NEW)[0] for p in prompts]
        assert alone == expected, f"one by one: {alone} instead of {expected}"
    most = (NEW - 1) * len(runner.cache)
    assert merges[1] - merges[0] == most, f"{merges[1] - merges[0]} merges for {NEW - 1} steps of 8, not {most}"


def refused(name, config, words):
    try:
        hf.describe(make(config))
    except NotImplementedError as error:
        assert words in str(error), f"{name}: {error}"
    else:
        raise AssertionError(f"{name} was not refused")


def main():
    torch.set_num_threads(1)
    T.logging.set_verbosity_error()
    for name in sys.argv[1:] or [*FAMILIES, *REFUSED]:
        if name in FAMILIES:
            check(name, FAMILIES[name]())
        else:
            refused(name, REFUSED[name][0](), REFUSED[name][1])
    if not sys.argv[1:]:
        check_batch()


if __name__ == "__main__":
    main()
