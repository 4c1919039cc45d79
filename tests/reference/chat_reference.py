#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`banyan tokenize --chat` against apply_chat_template of transformers, with the templates that checkpoints bring.

    chat_reference.py BANYAN [CHECKPOINT FOLDER ..]

Folders with tokenizer.json and tokenizer_config.json; default: the one that launch/smollm makes. A template that
puts words of its own before the question when no system text is given is compared with one given. Llama 3.1's
puts the date before every system text: banyan does not, and that is printed. Exit code 77: no transformers, or
no folder."""
import os
import subprocess
import sys

QUESTIONS = ["What is the capital of France?", " two  blanks\n\n", "café 漢字 <|endoftext|> 12345"]
SYSTEMS = ["Be brief.", "  A line.\nAnother.\n"]


def ours(banyan, folder, question, system):
    run = subprocess.run([banyan, "tokenize", "--model", folder, "--chat"] + (["--system", system] if system else []),
                         input=question.encode(), capture_output=True)
    return [int(x) for x in run.stdout.split()] if run.returncode == 0 else run.stderr.decode()


def theirs(tokenizer, question, system):
    turns = [{"role": "system", "content": system}] if system else []
    text = tokenizer.apply_chat_template(turns + [{"role": "user", "content": question}], tokenize=False,
                                         add_generation_prompt=True)
    return text, tokenizer.encode(text, add_special_tokens=False)


def main():
    banyan, folders = sys.argv[1], sys.argv[2:]
    if not folders:
        folders = [os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")) + "/banyan/smollm2/model"]
    folders = [f for f in folders if os.path.exists(f + "/tokenizer_config.json")]
    try:
        from transformers import AutoTokenizer
    except ImportError:
        folders = []
    if not folders:
        print("skipped: no transformers, or no checkpoint folder with a chat template")
        return 77
    faults = 0
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for system in [None, *SYSTEMS]:
            for question in QUESTIONS:
                text, wanted = theirs(tokenizer, question, system)
                got = ours(banyan, folder, question, system)
                if got == wanted:
                    continue
                if system is None and wanted[-5:] == got[-5:]:
                    print(f"{folder}: the template has words of its own: {text!r}")
                    continue
                faults += 1
                print(f"{folder}: {text!r}: {got}, not {wanted}", file=sys.stderr)
        print(f"{folder}: {len(QUESTIONS) * (1 + len(SYSTEMS))} questions compared")
    return min(faults, 70)


if __name__ == "__main__":
    sys.exit(main())
