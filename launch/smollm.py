# SPDX-License-Identifier: Apache-2.0
"""smollm.py MODEL.gguf FOLDER: a Llama model in llama.cpp's format as the checkpoint that it was made from:
config.json, generation_config.json, model.safetensors (bf16), tokenizer.json and the tokenizer_config.json
that transformers and lm-evaluation-harness read beside it.

llama.cpp rotates neighbouring entries of a head, (2i, 2i+1), where the checkpoint has (i, i + d/2), and keeps
the rows of q and k in that order (convert_hf_to_gguf.py, permute): it is undone here. Quantised matrices
are what they stand for, rounded to bf16."""
import json
import sys

import gguf
import numpy

NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}
SPECIAL = 3  # token_type of what is never merged


def name_of(name):
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
                "output.weight": "lm_head.weight"}[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.weight"


def in_halves(rows, heads):
    """[heads][d/2][2] rows to [heads][2][d/2]."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_bf16(x):
    """fp32 to the nearest bf16, ties to even; as its bits."""
    bits = numpy.ascontiguousarray(x, dtype=numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def write_safetensors(path, tensors):
    """The format is a length, a header in JSON, and the tensors; NumPy has no bf16 to hand to a library."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [at, at + bits.nbytes]}
        at += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for bits in tensors.values():
            f.write(bits.tobytes())


def checkpoint(reader, folder):
    field = lambda name: reader.fields[name].contents()
    of = lambda name: field("llama." + name)
    heads, kv_heads, hidden = of("attention.head_count"), of("attention.head_count_kv"), of("embedding_length")
    tensors = {}
    for t in reader.tensors:
        rows = gguf.quants.dequantize(t.data, t.tensor_type)
        if t.name.endswith(("attn_q.weight", "attn_k.weight")):
            rows = in_halves(rows, heads if "attn_q" in t.name else kv_heads)
        tensors[name_of(t.name)] = to_bf16(rows)
    write_safetensors(folder + "/model.safetensors", tensors)
    ends = {"bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id")}
    write_json(folder + "/generation_config.json", ends)
    write_json(folder + "/config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": of("feed_forward_length"), "num_hidden_layers": of("block_count"),
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": hidden // heads,
        "max_position_embeddings": of("context_length"), "rope_theta": of("rope.freq_base"),
        "rms_norm_eps": float(f"{of('attention.layer_norm_rms_epsilon'):.6g}"),  # 1e-5, kept in fp32
        "vocab_size": len(field("tokenizer.ggml.tokens")), "tie_word_embeddings": "lm_head.weight" not in tensors, **ends})


def tokenizer(reader, folder):
    """SmolLM's: digits one by one, then GPT-2's splitting, then byte-level BPE."""
    field = lambda name: reader.fields["tokenizer.ggml." + name].contents()
    if (field("model"), field("pre")) != ("gpt2", "smollm"):
        sys.exit(f"tokenizer {field('model')} {field('pre')}: expected gpt2 smollm")
    tokens = field("tokens")
    named = {name: tokens[field(f"{name}_token_id")] for name in ("bos", "eos")}
    write_json(folder + "/tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": reader.fields["tokenizer.chat_template"].contents(),
        "model_max_length": reader.fields["llama.context_length"].contents(), "clean_up_tokenization_spaces": False,
        "bos_token": named["bos"], "eos_token": named["eos"], "pad_token": named["eos"],
        "add_bos_token": False, "add_prefix_space": False})
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    write_json(folder + "/tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": reader.fields["tokenizer.chat_template"].contents(),
        "bos_token": tokens[field("bos_token_id")], "eos_token": tokens[field("eos_token_id")]})
    write_json(folder + "/tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}
                         for i, kind in enumerate(field("token_type")) if kind == SPECIAL],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
        "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": field("merges")}})


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


def main():
    reader, folder = gguf.GGUFReader(sys.argv[1]), sys.argv[2]
    checkpoint(reader, folder)
    tokenizer(reader, folder)


main()
