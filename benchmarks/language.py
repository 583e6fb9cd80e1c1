"""The output layer and loss of a GPT-2: ours, for labelled tokens only, against transformers'.

    python benchmarks/language.py [--tokens 512] [--labelled 0.45] [--vocabulary 50257]
                                  [--width 768] [--rounds 9] [--json PATH]

Random hidden states and a frozen table; forward and backward, every form in turn within one
process, processor time of one thread; ratios are medians over the rounds. Saved is what autograd
keeps beside the table. The share of labelled tokens is that of E2E.
"""

import argparse
import time
from collections.abc import Callable
from functools import cache
from statistics import median

import common
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss

from experiments.backbones.language import next_token_loss
from experiments.data.batches import IGNORED

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def theirs(hidden: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    """Logits of every token, and transformers' loss on them."""
    logits = F.linear(hidden, table)
    one = torch.tensor(1)
    return ForCausalLMLoss(logits[None], labels[None], table.shape[0], num_items_in_batch=one)


def ours(hidden: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    """Logits where there is a target, a few at a time."""
    places = (labels != IGNORED).nonzero()[:, 0]
    return next_token_loss(hidden[places - 1], table, labels[places], 0.0)[0]


def ours_bf16(hidden: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    """Ours with states and table in bfloat16."""
    return ours(hidden.bfloat16(), halved(table), labels)


@cache
def halved(table: Tensor) -> Tensor:
    """The table as it is held in bfloat16."""
    return table.bfloat16()


FORMS: dict[str, Form] = {
    "transformers": theirs,
    "ours": ours,
    "ours bf16": ours_bf16,
    "transformers again": theirs,
}


def once(form: Form, hidden: Tensor, table: Tensor, labels: Tensor) -> tuple[float, Tensor, Tensor]:
    """Seconds of a call with its backward pass, the loss, and the gradient of the states."""
    states = hidden.clone().requires_grad_()
    started = time.process_time()
    loss = form(states, table, labels)
    loss.backward()
    seconds = time.process_time() - started
    assert states.grad is not None
    return seconds, loss.detach(), states.grad


def labels_for(tokens: int, share: float, vocabulary: int) -> Tensor:
    """The last part of the tokens as targets."""
    labels = torch.randint(vocabulary, (tokens,))
    labels[: round(tokens * (1 - share))] = IGNORED
    return labels


def saved(form: Form, hidden: Tensor, table: Tensor, labels: Tensor) -> int:
    """Bytes kept for the backward pass."""
    states = hidden.clone().requires_grad_()
    return common.saved_bytes(lambda: form(states, table, labels), [table, halved(table)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name, value in (("tokens", 512), ("vocabulary", 50257), ("width", 768), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--labelled", type=float, default=0.45)
    parser.add_argument("--json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = 0.02 * torch.randn(given.vocabulary, given.width)
    hidden = torch.randn(given.tokens, given.width)
    labels = labels_for(given.tokens, given.labelled, given.vocabulary)
    before = common.load()
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    found = {}
    for _ in range(given.rounds):
        for name, form in FORMS.items():
            seconds, *found[name] = once(form, hidden, table, labels)
            times[name].append(seconds)
    figures = {
        name: {
            "ms": 1000 * median(times[name]),
            "faster": median(
                a / b for a, b in zip(times["transformers"], times[name], strict=True)
            ),
            "saved_mib": saved(form, hidden, table, labels) / 2**20,
            "error": max(
                float((x - y).abs().max() / y.abs().max())
                for x, y in zip(found[name], found["transformers"], strict=True)
            ),
        }
        for name, form in FORMS.items()
    }
    rows = [
        [name, f"{f['ms']:.0f}", f"{f['faster']:.2f}", f"{f['saved_mib']:.1f}", f"{f['error']:.1e}"]
        for name, f in figures.items()
    ]
    columns = ["form", "ms", "times faster", "saved MiB", "largest error"]
    common.table(f"{given.tokens} tokens, {given.labelled:.0%} labelled", columns, rows)
    print(common.claim(figures["transformers again"]["faster"]))
    print(f"Load {before} to {common.load()}.")
    common.write(given.json, {"load": [before, common.load()], "forms": figures})


if __name__ == "__main__":
    main()
