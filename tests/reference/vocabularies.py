# SPDX-License-Identifier: Apache-2.0
"""Small vocabularies of every kind that launch/text knows, trained with `tokenizers`, and texts to try
them on. `vocabularies.py FOLDER` writes the ones that text_test reads: tokenizer.json and vectors.json,
[{"text", "ids", "with_ends", "back"}], by kind."""
import glob
import json
import os
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SHORTS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPERS, LOWERS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ANY = r"[^\r\n\p{L}\p{N}]?"
REGEX = {
    "llama3": SHORTS + "|" + ANY + r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL,
    "qwen2": SHORTS + "|" + ANY + r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL,
    "qwen3_5": SHORTS + "|" + ANY + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + TAIL,
    "o200k": ANY + UPPERS + "*" + LOWERS + "+" + SHORTS + "?|" + ANY + UPPERS + "+" + LOWERS + "*" + SHORTS
             + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL,
    "tekken": ANY + UPPERS + "*" + LOWERS + "+|" + ANY + UPPERS + "+" + LOWERS
              + r"*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL,
}
SPECIALS = {
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "smollm2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "tekken": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
    "llama2": ["<unk>", "<s>", "</s>"],
    "mistral": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
    "gemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
}
BOS = {"llama3": "<|begin_of_text|>", "tekken": "<s>", "llama2": "<s>", "mistral": "<s>", "gemma": "<bos>"}
LEVELS = ["gpt2", "smollm2", *REGEX]
KINDS = [*LEVELS, "llama2", "mistral", "gemma"]


def byte_level(kind):
    t = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    if kind == "gpt2":
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif kind == "smollm2":
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(REGEX[kind]), behavior="isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if kind.startswith("qwen"):
        t.normalizer = normalizers.NFC()
    t.decoder = decoders.ByteLevel()
    return t, pre_tokenizers.ByteLevel.alphabet(), []


def falls_back(kind):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "llama2":
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "mistral":
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        t.normalizer = normalizers.Replace(" ", "▁")
        t.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    if kind != "gemma":
        steps.append(decoders.Strip(" ", 1, 0))
    t.decoder = decoders.Sequence(steps)
    return t, list("▁abcdefghijklmnopqrstuvwxyz,.éü漢"), [f"<0x{b:02X}>" for b in range(256)]


def make(kind, texts, size):
    """A Tokenizer of `kind` with about `size` tokens, from its own file, as a user's is."""
    t, alphabet, in_bytes = byte_level(kind) if kind in LEVELS else falls_back(kind)
    specials = SPECIALS.get(kind, ["<|endoftext|>"])
    real = t.pre_tokenizer
    if kind not in LEVELS:  # training wants words; merges must not reach across them
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*specials, *in_bytes], initial_alphabet=alphabet, show_progress=False,
        max_token_length=24, limit_alphabet=max(len(alphabet), 256 if kind in LEVELS else 60)))
    if kind not in LEVELS:
        t = Tokenizer.from_str(t.to_str())
        if real is not None:
            t.pre_tokenizer = real
    file = json.loads(t.to_str())
    if kind == "llama2":
        file["pre_tokenizer"] = None
    file["added_tokens"] = [a for a in file["added_tokens"] if a["content"] not in in_bytes]
    top = max(file["model"]["vocab"].values())
    for name, flags in (("<|left|>", {"lstrip": True}), ("<|right|>", {"rstrip": True}),
                        ("two words", {"normalized": True}), ("e\u0301t", {"normalized": True})):
        top += 1
        file["added_tokens"].append({"id": top, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                                     "normalized": False, "special": False, **flags})
    if kind in BOS:
        bos = BOS[kind]
        i = file["model"]["vocab"][bos]
        file["post_processor"] = {
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": bos, "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [i], "tokens": [bos]}}}
    return Tokenizer.from_str(json.dumps(file))


def added(t):
    return [a.content for a in t.get_added_tokens_decoder().values()]


def disorder(r, count, names):
    """Random text: what scanners, NFC and added tokens stumble over more often than a text has it."""
    spaces = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "\u200b", "/"]
    shorts = ["'s", "'S", "'\u017f", "'RE", "'ve", "'lL", "'d", "'", "\u2019s", "'\u212a", "DON'T", "He'LL", "x'd"]
    words = ["a" * 40, " hello", " world", "ing", "HTTPServer", "\u02b0AB", "\u0301AB", "A\u0301", "e\u0323\u0307", "\uac00\u11a8",
             "\u1100\u1161\u11a8", "\ufb2c", "\u2126", "\u0344", "\u0f73\u0f71", "\U0001d15e", "caf\u00e9", "na\u00efve", "x\x00y"]
    ranges = [(0x80, 0x24F), (0x4E00, 0x9FFF), (0x600, 0x6FF), (0x900, 0x97F), (0x300, 0x36F), (0x1F300, 0x1F6FF),
              (0xAC00, 0xD7A3), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2B0, 0x2FF), (0x80, 0x2FFFF)]
    out = []
    for _ in range(count):
        x = r.random()
        if x < 0.3:
            out.append(chr(r.randint(32, 126)))
        elif x < 0.42:
            out.append(r.choice(spaces))
        elif x < 0.5:
            out.append(r.choice(shorts))
        elif x < 0.6:
            out.append(r.choice("0123456789\u0661\u0967\u2460\u00bd\u2167\U00011de3"))
        elif x < 0.66:
            out.append(r.choice(words))
        elif x < 0.72:
            out.append(r.choice([*names, "<|", "<0x41>"]))
        else:
            c = r.randint(*r.choice(ranges))
            out.append(chr(c if not 0xD800 <= c < 0xE000 else 0x41))
    return "".join(out)


def sources(root):
    """Sources and documents of this project and of Python: [text]."""
    names = sorted(glob.glob(f"{root}/launch/**/*.[ch]", recursive=True) + glob.glob(f"{root}/*.md"))
    names += sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py"))[:120]
    return [open(n, encoding="utf-8", errors="replace", newline="").read() for n in names]


def english():
    """What a Debian has of English: [text]."""
    return [open(n, encoding="utf-8", errors="replace").read() for n in sorted(glob.glob("/usr/share/common-licenses/*"))]


def main():
    root = os.path.dirname(os.path.abspath(__file__)) + "/../.."
    texts = [open(f"{root}/{n}.md", encoding="utf-8").read() for n in ("README", "CONTRIBUTING")] + ["漢字 école über"] * 20
    for kind in KINDS:
        t = make(kind, texts, 420 if kind in LEVELS else 500)
        r = random.Random(kind)
        tries = ["", " ", "Hello world", " two  words\n", "I'm 12345 years old; she'LL see.\r\n\r\n  x", "aaaaaaaaaa" * 8,
                 "".join(added(t)[-6:]), "a <|left|> b <|right|>  c two words e\u0301t"]
        tries += [disorder(r, 24, added(t)) for _ in range(16)]
        folder = f"{sys.argv[1]}/{kind}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/tokenizer.json", "w", encoding="utf-8") as f:
            f.write(json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
        with open(f"{folder}/vectors.json", "w", encoding="utf-8") as f:
            rows = []
            for text in tries:
                ids = t.encode(text, add_special_tokens=False).ids
                rows.append(json.dumps({
                    "text": text, "ids": ids, "with_ends": len(t.encode(text).ids) - len(ids),
                    "back": t.decode(ids, skip_special_tokens=False)}, separators=(",", ":")))
            f.write("[" + ",\n".join(rows) + "]\n")


if __name__ == "__main__":
    main()
