# SPDX-License-Identifier: Apache-2.0
"""Rules from the head patterns that other projects publish as files."""
import os
import re
import shutil
import subprocess
from typing import List, Optional

from .core import Rule
from .errors import ConfigError

_RULE = re.compile(r'^rule \{ layers: "([\d-]+)" heads: "([\d-]+)" use: "((?:[^"\\]|\\.)*)" \}$')


def _range(text):
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _rule(line):
    found = _RULE.match(line)
    if not found:
        raise ConfigError(f"{line!r} is no rule of a config")
    layers, heads = _range(found[1]), _range(found[2])
    return Rule(re.sub(r"\\(.)", r"\1", found[3]), *layers, *heads)


def rules_from_pattern(file, *, layers: Optional[int] = None, heads: Optional[int] = None,
                       kv_heads: Optional[int] = None, sparsity: Optional[float] = None,
                       threshold: Optional[float] = None, rest: Optional[str] = None,
                       program: Optional[str] = None) -> List[Rule]:
    """The rules, for Plan(rules=..), of a pattern file: DuoAttention's full_attention_heads.tsv (or
    its folder), RazorAttention's head lists, MoA's alphas and betas, MInference's best patterns,
    retrieval head scores; what `banyan plan --pattern FILE --print-config` says of it.

    layers, heads, kv_heads: the model's, as far as they are known; a file of KV heads needs `heads`.
    sparsity, threshold: which heads of a file of scores are dense; rest: the rule of the others.
    program: the `banyan` program; by default BANYAN_PROGRAM, or the one on the PATH. Errors of the
    file and of the flags are ConfigError, in the program's words; FileNotFoundError: no program."""
    program = program or os.environ.get("BANYAN_PROGRAM") or shutil.which("banyan")
    if not program:
        raise FileNotFoundError("the banyan program is not on the PATH: install it, or name it in "
                                "BANYAN_PROGRAM")
    given = {"layers": layers, "heads": heads, "kv-heads": kv_heads, "sparsity": sparsity,
             "threshold": threshold, "rest": rest}
    words = [program, "plan", "--print-config", f"--pattern={os.fspath(file)}"]
    words += [f"--{name}={value}" for name, value in given.items() if value is not None]
    # It is one process, whatever job this one is a rank of.
    ranks = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "MPI_LOCALRANKID")
    alone = {k: v for k, v in os.environ.items() if not k.startswith(ranks)}
    ran = subprocess.run(words, env=alone, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ConfigError(ran.stderr.strip().removeprefix("banyan: "))
    return [_rule(line) for line in ran.stdout.splitlines()]
