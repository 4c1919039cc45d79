# SPDX-License-Identifier: Apache-2.0
"""smollm_test.py MODEL [--time]: a trained model (launch/smollm writes one) through banyan.hf, on any
number of ranks: text prompts of up to 4,000 tokens, 16 greedy ids each, the same as eager attention's.
--time: instead, the seconds of a prefill of 4,000 tokens on one thread a rank, and eager's with one rank."""
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import banyan
from banyan import hf

comm = banyan.Comm()
NEW = 16
STORY = ("The old harbour wakes early. Boats come back from the banks with their nets half full, and "
         "the gulls argue over what the tide has left. ")


def prompts(tokenizer):
    for question, tokens in (("The capital of France is", 0), ("Once upon a time", 700),
                             ("The number of the harbour master's house is 417. ", 4000)):
        text = question
        while tokens and len(tokenizer(text).input_ids) < tokens - 40:
            text += STORY * max(1, (tokens - len(tokenizer(text).input_ids)) // 60)
        yield (tokenizer(text).input_ids + tokenizer(" The harbour master's house is number")
               .input_ids)[:4000] if tokens > 1000 else tokenizer(text).input_ids


@torch.no_grad()
def eager(model, ids):
    model.set_attn_implementation("eager")
    found = model.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False,
                           pad_token_id=0)[0, len(ids):].tolist()
    return found


def timed(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


@torch.no_grad()
def measure(model, ids):
    with hf.Runner(model, comm, max_tokens=4200, max_rows=2048, threads=1) as runner:
        runner.begin(1)
        comm.agree()
        seconds = timed(lambda: runner.extend([ids]))
    if comm.rank == 0:
        print(f"prefill of {len(ids)} tokens, {comm.size} ranks x 1 thread: {seconds:.2f} s")
    if comm.size == 1:
        model.set_attn_implementation("eager")
        print(f"eager: {timed(lambda: model(torch.tensor([ids]), logits_to_keep=1)):.2f} s")


def main():
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    if "--time" in sys.argv:
        measure(model, list(prompts(tokenizer))[-1][:4000])
        return
    expected = {}
    for ids in prompts(tokenizer):
        expected[tuple(ids)] = comm.broadcast(eager(model, ids) if comm.rank == 0 else None)
    with hf.Runner(model, comm, max_tokens=4096, max_rows=2048, threads=1) as runner:
        for ids, ids_expected in expected.items():
            found = runner.generate([list(ids)], NEW)[0]
            assert found == ids_expected, f"{len(ids)} tokens: {found} instead of {ids_expected}"
            if comm.rank == 0:
                print(f"{len(ids)} tokens:", repr(tokenizer.decode(found)))


main()
