# SPDX-License-Identifier: Apache-2.0
"""The line, drawn: what every KV head of a layer keeps end to end, and which rank keeps it."""
from html import escape

_COLORS = ["#4C78A8", "#F58518", "#54A24B", "#E45756", "#72B7B2", "#B279A2", "#9D755D", "#BAB0AC"]
_WIDTH, _BAR, _GAP = 900, 22, 30
_MOST_BLOCKS = 4096  # of a head are looked at; more are sampled


def _shares(plan, layer, kv_head, tokens):
    """Of the blocks of a KV head that the row at the end reads: [(rank, count)], ascending rank."""
    shape, spec = plan.shape(layer), plan.spec
    blocks = max(1, tokens // spec.block_tokens)
    step = max(1, blocks // _MOST_BLOCKS)
    group = shape.heads // shape.kv_heads
    counts = {}
    for block in range(0, blocks, step):
        last = min((block + 1) * spec.block_tokens, tokens) - 1
        heads = range(kv_head * group, (kv_head + 1) * group)
        if any(plan.reads(layer, h, tokens - 1, last) for h in heads):
            rank = plan.owner(layer, kv_head, block)
            counts[rank] = counts.get(rank, 0) + step
    return sorted(counts.items())


def line(plan, layer: int = 0, tokens: int = 0) -> str:
    """An SVG: the KV heads of a layer end to end, each as long as what a row at `tokens` tokens
    (the plan's planned_tokens) reads of it, coloured by the rank that keeps it."""
    tokens = tokens or plan.spec.planned_tokens or plan.spec.max_tokens
    shares = [_shares(plan, layer, h, tokens) for h in range(plan.shape(layer).kv_heads)]
    total = sum(n for head in shares for _, n in head) or 1
    x, body = 0.0, []
    for kv_head, head in enumerate(shares):
        start = x
        for rank, n in head:
            width = n / total * _WIDTH
            title = f"KV head {kv_head}, rank {rank}: {n} blocks"
            body.append(f'<rect x="{x:.2f}" y="{_GAP}" width="{width:.2f}" height="{_BAR}" '
                        f'fill="{_COLORS[rank % len(_COLORS)]}"><title>{escape(title)}</title></rect>')
            x += width
        body.append(f'<path d="M{start:.2f} {_GAP - 4}V{_GAP + _BAR + 4}" stroke="#000"/>')
        body.append(f'<text x="{start + 3:.2f}" y="{_GAP - 8}" font-size="11">{kv_head}</text>')
    note = (f"layer {layer}, {tokens} tokens, {plan.comm.size} ranks: {total} blocks read; "
            "a colour is a rank")
    height = _GAP + _BAR + 28
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" font-family="sans-serif">{"".join(body)}'
            f'<text x="0" y="{height - 8}" font-size="12">{escape(note)}</text></svg>')


def show(plan, layer: int = 0, tokens: int = 0):
    """Draws the line in a notebook; elsewhere prints the plan. Rank 0 only."""
    if plan.comm.rank != 0:
        return
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
    except ImportError:
        print(plan)
        return
    if get_ipython() is None:
        print(plan)
    else:
        display(HTML(line(plan, layer, tokens)))
