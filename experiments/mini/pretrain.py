"""Make the shipped backbones anew: python -m experiments.mini.pretrain mini_roberta | mini_gpt2.

From nothing but the suite's own unlabelled text. A run stopped at any moment goes on from its last
checkpoint, and its folder appears when it is complete.
"""

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, RobertaForMaskedLM
from transformers.utils import logging as transformers_logging

from experiments.disk.files import read_tensors, set_default_mode, write_tensors
from experiments.machine.randomness import derive_seed, torch_generator
from experiments.mini.architectures import SHIPPED, build_model, train_tokenizer
from experiments.mini.muon import Muon
from experiments.mini.objectives import HELD_OUT_SEED, Causal, Masked, Objective, Recipe
from experiments.mini.passages import passages
from experiments.models.files import hash_files

RECIPES = {
    "mini_roberta": Recipe(name="mini_roberta", steps=2200),
    "mini_gpt2": Recipe(name="mini_gpt2", steps=1100, spelled=0.35),
}
BLOCKS = re.compile(r"\.(layer|h)\.\d+\.")  # in the names of parameters inside a block
TOLERANCE = 0.05  # by which a rebuilt model's held-out loss may exceed the shipped one's
WEIGHTS = "model.safetensors"


def objective(
    recipe: Recipe,
    model: RobertaForMaskedLM | GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
) -> Objective:
    """Return the objective for this model; it has no dropout, since no text comes twice."""
    model.eval()
    model.set_attn_implementation("eager")  # the fastest on a CPU for texts this short
    if isinstance(model, GPT2LMHeadModel):
        return Causal(recipe, model, tokenizer)
    return Masked(recipe, model, tokenizer)


def start(recipe: Recipe) -> Objective:
    """A tokenizer made from the text, and a model of random weights."""
    seed = derive_seed(recipe.seed, "vocabulary")
    stream = passages(seed, recipe.spelled)
    texts = (" ".join(passage) for passage in islice(stream, recipe.vocabulary))
    tokenizer = train_tokenizer(recipe.name, texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "weights"))
        return objective(recipe, build_model(recipe.name, len(tokenizer)), tokenizer)


def load_shipped(name: str) -> Objective:
    """The backbone that the project ships."""
    kind = GPT2LMHeadModel if name == "mini_gpt2" else RobertaForMaskedLM
    model = kind.from_pretrained(SHIPPED / name, dtype=torch.float32, local_files_only=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(SHIPPED / name, local_files_only=True)
    return objective(RECIPES[name], model, tokenizer)


@torch.no_grad()
def measure_held_out_loss(judged: Objective) -> float:
    """The mean loss per guess on text that no recipe trains on, the same for every model."""
    judged = replace(judged, recipe=RECIPES[judged.recipe.name])
    generator = torch_generator(HELD_OUT_SEED, "guesses")
    losses = [judged.judge(rows, generator)[0] for rows in judged.held_out()]
    return float(torch.cat(losses).mean())


def optimizers(objective: Objective) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else."""
    recipe, inside, rest, plain = objective.recipe, [], [], []
    for name, parameter in objective.parameters().items():
        if parameter.ndim == 1:
            plain.append(parameter)
        else:
            (inside if BLOCKS.search(name) else rest).append(parameter)
    groups = [
        {"params": rest, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return {
        "muon": Muon(
            inside,
            lr=recipe.matrix_lr,
            momentum=0.95,
            weight_decay=recipe.weight_decay,
            transposed=isinstance(objective, Causal),
        ),
        "adamw": torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True),
    }


@dataclass
class Pretraining:
    """A model on its way, in files beside its destination."""

    objective: Objective
    out: Path
    every: float  # seconds between two checkpoints

    def __post_init__(self) -> None:
        self.optimizers = optimizers(self.objective)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        self.step, self.tokens = 0, 0
        self.seconds = 0.0  # of processor time, which others on the machine do not lengthen
        if self.checkpoint.exists():
            self.restore()

    @property
    def checkpoint(self) -> Path:
        return self.out.with_name(f".{self.out.name}.checkpoint.safetensors")

    def train(self) -> Iterator[float]:
        """Take the steps that are left, and give the mean loss of each."""
        recipe, saved = self.objective.recipe, time.monotonic()
        while self.step < recipe.steps:
            started = time.process_time()
            loss = self.take_step()
            self.seconds += time.process_time() - started
            if time.monotonic() - saved >= self.every:
                self.save()
                saved = time.monotonic()
            yield loss

    def take_step(self) -> float:
        """Move the weights once, and give the mean loss of the guesses before."""
        recipe = self.objective.recipe
        rows = self.objective.batch(self.step)
        loss, guessing = self.objective.loss(
            rows, torch_generator(recipe.seed, "guesses", self.step)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.objective.parameters().values(), recipe.clip)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate(self.step, recipe)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.tokens += sum(map(len, rows))
        return guessing

    @property
    def key(self) -> str:
        """The recipe and the first passages of the text, with which a checkpoint must agree."""
        recipe = self.objective.recipe
        first = list(islice(passages(recipe.seed, recipe.spelled), 100))
        return json.dumps({"recipe": asdict(recipe), "text": first})

    def save(self) -> None:
        """Write all that moves."""
        tensors: dict[str, Tensor] = {
            f"model/{name}": tensor for name, tensor in self.objective.parameters().items()
        }
        for kind, optimizer in self.optimizers.items():
            for number, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"{kind}/{number}/{name}": value for name, value in moments.items()}
        numbers = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds}
        about = {"key": self.key, **{name: str(value) for name, value in numbers.items()}}
        write_tensors(self.checkpoint, tensors, about)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to where the last checkpoint was written."""
        about, tensors = read_tensors(self.checkpoint, "delete it to start anew")
        if about.get("key") != self.key:
            raise ValueError(
                f"{self.checkpoint} is of another recipe or another text; delete it to start anew."
            )
        for name, parameter in self.objective.parameters().items():
            parameter.copy_(tensors.pop(f"model/{name}"))
        states: dict[str, dict[int, dict[str, Tensor]]] = {kind: {} for kind in self.optimizers}
        for name, tensor in tensors.items():
            kind, number, moment = name.split("/")
            states[kind].setdefault(int(number), {})[moment] = tensor
        for kind, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizer.state_dict() | {"state": states[kind]})
        self.step, self.tokens = int(about["step"]), int(about["tokens"])
        self.seconds = float(about["seconds"])

    def finish(self) -> float:
        """Write the model's folder, whole, and give the held-out loss of what it holds."""
        model, beside = self.objective.model, self.out.with_name(f".{self.out.name}.unfinished")
        shutil.rmtree(beside, ignore_errors=True)
        self.objective.tokenizer.save_pretrained(beside)
        model.half().save_pretrained(beside)
        set_default_mode(beside / WEIGHTS)
        model.float()  # of the rounded weights: they are what is judged
        loss = measure_held_out_loss(self.objective)
        text = card(self, loss, hash_files([beside / WEIGHTS]))
        (beside / "README.md").write_text(text, encoding="utf-8")
        beside.replace(self.out)
        self.checkpoint.unlink(missing_ok=True)
        return loss


def rate(step: int, recipe: Recipe) -> float:
    """The factor on the learning rate at a step, from 0."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    if step < warmup:
        return (step + 1) / warmup
    return (recipe.steps - step) / (recipe.steps - warmup)


CARD = """# {name}

A small {kind} for the built-in tasks. It knows the made-up language of
`experiments/mini/passages.py` and nothing else: its tokenizer reads any text, and what it makes of
real text says nothing.

| | |
|---|---|
| parameters | {parameters:,}, stored as float16 |
| shape | {layers} layers of width {width}, {heads} heads, {longest} tokens |
| tokenizer | byte-level BPE of its own, {tokens_known:,} tokens: all words of the text, all bytes |
| data | {tokens:,} tokens drawn from the suite's grammar, no text from elsewhere |
| objective | {objective} |
| recipe | {steps:,} steps of {batch_size} passages, Muon at rate {matrix_lr:g} inside the \
blocks, AdamW at {lr:g} outside, with {warmup:.0%} warm-up and linear decay, \
weight decay {weight_decay:g}, gradients clipped to norm {clip:g}, no dropout |
| seed | {seed} |
| duration | {minutes:.1f} minutes of one processor core |
| held-out loss | {loss:.4f} nats per guess, with the weights as stored |
| sha256 of `{weights}` | `{sha256}` |

`python -m experiments.mini.pretrain {name}` makes it anew from this repository alone, and checks
that the held-out loss is at most {tolerance} above this one's. The licence is the project's.
"""


def card(run: Pretraining, loss: float, sha256: str) -> str:
    """The model card."""
    recipe, model = run.objective.recipe, run.objective.model
    causal = isinstance(run.objective, Causal)
    masked = (
        f"guess {recipe.masked:.0%} of a first sentence's words, {recipe.later:.0%} of those that "
        f"follow, {recipe.telling:.0%} of the words that say how things are related; most are "
        f"masked, {recipe.wrong:.0%} replaced by a word of the same class, which is to be found"
    )
    return CARD.format(
        **asdict(recipe),
        kind=f"{'decoder' if causal else 'encoder'} (`{type(model).__name__}`)",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        heads=model.config.num_attention_heads,
        longest=run.objective.longest,
        tokens_known=model.config.vocab_size,
        tokens=run.tokens,
        objective="guess the next token" if causal else masked,
        minutes=run.seconds / 60,
        loss=loss,
        weights=WEIGHTS,
        sha256=sha256,
        tolerance=TOLERANCE,
    )


def pretrain(recipe: Recipe, out: Path, every: float) -> float:
    """Make one backbone in the folder `out`; returns its held-out loss."""
    if out.exists():
        raise ValueError(f"{out} exists already; delete it, or name another folder with --out.")
    run = Pretraining(start(recipe), out, every)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task(recipe.name, total=recipe.steps, completed=run.step)
        for loss in run.train():
            shown = f"{recipe.name}  loss {loss:.3f}"
            progress.update(bar, completed=run.step, description=shown)
    return run.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a shipped backbone anew.")
    parser.add_argument("name", choices=list(RECIPES), help="the model to make")
    parser.add_argument("--out", type=Path, help="a new folder (outputs/pretrained/NAME)")
    parser.add_argument("--steps", type=int, help="number of steps, instead of the recipe's")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between checkpoints")
    given = parser.parse_args()
    recipe = RECIPES[given.name]
    if given.steps is not None:
        recipe = replace(recipe, steps=given.steps)
    out = given.out or Path("outputs/pretrained") / given.name
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        loss = pretrain(recipe, out, given.every)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    expected = measure_held_out_loss(load_shipped(given.name))
    print(f"{out}: held-out loss {loss:.4f}; the shipped model's is {expected:.4f}.")
    if not loss <= expected + TOLERANCE:
        sys.exit(f"That is more than {TOLERANCE} worse: the shipped model is not reproduced.")


if __name__ == "__main__":
    main()
