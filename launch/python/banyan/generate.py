# SPDX-License-Identifier: Apache-2.0
"""Text from a model of transformers, its cache cut over the ranks of an MPI job:

    mpirun -np 4 python -m banyan.generate --model DIR --prompt "Where is the needle?"

Rank 0 prints the text as it is made. Several --prompt make one batch.
"""
import argparse
import sys

from . import core
from ._end import together


def _options():
    p = argparse.ArgumentParser(prog="python -m banyan.generate", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, metavar="DIR", help="a folder that transformers reads")
    p.add_argument("--prompt", action="append", default=[], metavar="TEXT")
    p.add_argument("--prompt-file", action="append", default=[], metavar="FILE",
                   help="the prompt is the text of this file; - is standard input")
    p.add_argument("--chat", action="store_true", help="put the prompt in the tokenizer's template")
    p.add_argument("--system", metavar="TEXT", help="with --chat: the system's message")
    p.add_argument("--rules", action="append", default=[], metavar="RULE",
                   help='what heads read, "s2 stride=8 local=16"; the model\'s own when not given')
    p.add_argument("--count", type=int, default=64, metavar="N", help="most new tokens (64)")
    p.add_argument("--max-tokens", type=int, metavar="N", help="room in the cache (what is needed)")
    p.add_argument("--chunk", type=int, default=2048, metavar="N", help="rows of a prefill step")
    p.add_argument("--dtype", default="auto", help="of the weights and the cache (the model's)")
    p.add_argument("--device", default="cpu", help="cpu, or cuda")
    p.add_argument("--temperature", type=float, default=0.0, help="0: greedy")
    p.add_argument("--top-p", type=float, default=1.0)
    p.add_argument("--top-k", type=int, default=0, help="0: all")
    p.add_argument("--seed", type=int, default=0)
    return p


def _prompts(options, tokenizer, comm):
    """Token ids of each prompt; rank 0 reads the files."""
    texts = list(options.prompt)
    if comm.rank == 0:
        for name in options.prompt_file:
            if name == "-":
                texts.append(sys.stdin.read())
            else:
                with open(name, encoding="utf-8") as f:
                    texts.append(f.read())
    texts = comm.broadcast(texts) if comm.size > 1 else texts
    if not texts:
        sys.exit("banyan.generate: no prompt: give --prompt TEXT or --prompt-file FILE")
    if not options.chat:
        return [tokenizer(t).input_ids for t in texts]
    if tokenizer.chat_template is None:
        sys.exit(f"banyan.generate: --chat: the tokenizer of {options.model} has no chat template")
    system = [{"role": "system", "content": options.system}] if options.system else []
    return [tokenizer.apply_chat_template(system + [{"role": "user", "content": t}],
                                          add_generation_prompt=True, tokenize=True,
                                          return_dict=False) for t in texts]


class _Printer:
    """The first prompt's text as it is made: whole characters only."""

    def __init__(self, tokenizer):
        self.tokenizer, self.ids, self.shown = tokenizer, [], ""

    def __call__(self, step):
        if step[0] is None:
            return
        self.ids.append(step[0])
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            print(text[len(self.shown):], end="", flush=True)
            self.shown = text

    def end(self):
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        print(text[len(self.shown):])


def _eos(model, tokenizer):
    eos = model.generation_config.eos_token_id
    if eos is None:
        eos = tokenizer.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def main():
    options = _options().parse_args()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from . import hf
    from .hf.sample import sampler
    comm = core.Comm()
    torch.set_num_threads(max(1, torch.get_num_threads() // comm.size))
    if options.device == "cuda":
        torch.cuda.set_device(comm.rank % torch.cuda.device_count())
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=options.dtype, attn_implementation="banyan").to(options.device)
    prompts = _prompts(options, tokenizer, comm)
    longest = max(len(p) for p in prompts)
    room = options.max_tokens or longest + options.count
    printer = _Printer(tokenizer) if comm.rank == 0 and len(prompts) == 1 else None
    with hf.Runner(model, comm, max_tokens=room, rules=options.rules, sequences=len(prompts),
                   max_rows=min(options.chunk, max(longest, len(prompts)))) as runner:
        made = runner.generate(prompts, options.count, eos=_eos(model, tokenizer),
                               choose=sampler(options.temperature, options.top_p, options.top_k,
                                              options.seed), on_tokens=printer)
    if printer:
        printer.end()
    elif comm.rank == 0:
        for ids in made:
            print(tokenizer.decode(ids, skip_special_tokens=True))
    comm.close()


if __name__ == "__main__":
    together(main)
