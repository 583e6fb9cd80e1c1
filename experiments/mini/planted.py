"""A task with known truth: its labels are what the backbone says after a known change.

The teacher is the run's own backbone with some matrices changed. A label is a linear read-out of
the teacher's last hidden state, where the task head looks. A read-out drawn at random would be no
test: nearly all of it can be computed from the unchanged state, and the head would learn that and
leave the adapter idle. So it is drawn among the directions that the unchanged state explains least.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from experiments.data.batches import Encoded, encode
from experiments.data.sources import Source
from experiments.data.splits import Data, Split
from experiments.machine.randomness import derive_seed, numpy_generator, torch_generator
from experiments.metrics.base import find_label_metric
from experiments.mini.passages import passages
from experiments.mini.source import Mini
from experiments.models.model import Loaded
from experiments.models.pretrained import Pretrained
from experiments.settings.sections import restore_section
from experiments.stored import kinds
from experiments.tasks.labelled import LabelledTask
from variants.base import target_linears

KINDS = ("low_rank", "magnitude", "direction")
SHARES = {"train": range(128), "dev": range(128, 192), "test": range(192, 256)}
CALIBRATION = 1024  # texts that the read-out is made from
DIGITS = 5  # decimal places of a label, whose standard deviation is one
TINY = 1e-6  # of the mean variance: what varies less is rounding
RIDGE = 0.01  # of the mean variance: no direction is chosen because it hardly varies


@dataclass(frozen=True)
class Teacher:
    """The changed backbone, what was changed in it, and the read-out of its hidden state."""

    loaded: Loaded
    weights: dict[str, Tensor]  # [d_out, d_in] by name of the linear layer
    readout: Tensor  # [width]
    offset: float

    def labels(self, states: Tensor) -> Tensor:
        """The labels [n] of the last hidden states [n, width] that the head looks at."""
        return states @ self.readout + self.offset


@dataclass(frozen=True, kw_only=True)
class Planted(LabelledTask):
    """Regression on a teacher that differs from the run's backbone in a known way."""

    model: dict[str, Any]  # the backbone, as a section of the config
    kind: str  # low_rank; magnitude: only the norms of the rows; direction: all but these norms
    rank: int | None  # of the update; null for a magnitude, which has none
    targets: list[str]  # names of linear layers, or ends of their dotted names
    layers: list[int]  # blocks from 0, or from the last one as -1
    size: float  # norm of the update over that of W0; of a magnitude: spread of log factors
    mixed: int  # directions that the read-out is a random mixture of
    max_length: int  # tokens of a text that the teacher reads
    seed: int  # of the change and of the read-out
    score_on: list[str]  # splits that are scored

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got '{self.kind}'.")
        if self.kind == "magnitude" and self.rank is not None:
            raise ValueError(f"rank must be null for a magnitude, got {self.rank}.")
        if self.kind != "magnitude" and (self.rank is None or self.rank < 1):
            raise ValueError(f"rank must be at least 1, got {self.rank}.")
        if self.size <= 0:
            raise ValueError(f"size must be positive, got {self.size}.")
        if self.mixed < 1:
            raise ValueError(f"mixed must be at least 1, got {self.mixed}.")
        for split in self.score_on:
            if split not in SHARES:
                raise ValueError(
                    f"Task '{self.name}' has no split '{split}'. It has: {', '.join(SHARES)}."
                )

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def regression(self) -> bool:
        return True

    @property
    def primary(self) -> str:
        return "pearson"

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        return outputs[:, 0]

    def score(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        predictions = self.predict(outputs)
        found = {
            name: float(find_label_metric(name).value(labels, predictions))
            for name in ("pearson", "spearman")
        }
        return found | {"mse": float(np.mean((labels - predictions) ** 2))}

    def interval(
        self, labels: np.ndarray, outputs: np.ndarray, generator: np.random.Generator
    ) -> tuple[float, float]:
        metric = find_label_metric(self.primary)
        return metric.interval(labels, self.predict(outputs), generator)

    def load(self, source: Source, evaluated: bool = True) -> Data:
        if not isinstance(source, Mini):
            raise ValueError(f"Task '{self.name}' makes its own data; it takes data=mini only.")
        teacher = self.teacher()
        weights = self.pretrained().weights_hash()
        score = {
            name: self.split(teacher, weights, name, source)
            for name in (self.score_on if evaluated else [])
        }
        return Data(self.split(teacher, weights, "train", source), score, {})

    def split(self, teacher: Teacher, weights: str, name: str, source: Mini) -> Split:
        """One split: texts of the suite, and what the teacher says of them."""
        size = {"train": source.train, "dev": source.dev, "test": source.test}[name]
        texts = draw_texts(source.seed, size, name)
        data = tokens(teacher.loaded, texts, self.max_length)
        labels = teacher.labels(states(teacher.loaded, data)).numpy()
        # Sums of float64 differ between processes in their last digits, and these do not show.
        labels = labels.round(DIGITS).astype(np.float32) + np.float32(0)  # and no zero is negative
        generator = numpy_generator(source.seed, "planted noise", name)
        wrong = generator.random(len(labels)) < source.noise
        labels[wrong] = generator.standard_normal(wrong.sum())
        about = {"task": kinds.with_kinds(asdict(self)), "weights": weights, "texts": texts}
        about |= {"noise": source.noise, "labels": labels.tolist()}
        return Split(
            ids=np.arange(len(texts)),
            texts=[(text,) for text in texts],
            labels=labels,
            origin=f"planted {self.kind} in {', '.join(teacher.weights)}; {name}, seed {self.seed}",
            sha256=hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest(),
        )

    def pretrained(self) -> Pretrained:
        """The backbone that is changed."""
        # Whoever composed or read these settings has looked the class up already.
        model = restore_section("model", self.model, kinds.trust)
        if not isinstance(model, Pretrained):
            raise ValueError(f"task.model must be a model, got {type(model).__name__}.")
        return model

    def teacher(self) -> Teacher:
        """The backbone with the planted change."""
        loaded = self.pretrained().load(1, torch_generator(self.seed, "unused"), "fp32")
        loaded.model.double()
        data = tokens(loaded, draw_texts(self.seed, CALIBRATION, "calibration"), self.max_length)
        before = states(loaded, data)
        changed = self.change(loaded.model.backbone)
        after = states(loaded, data)
        directions = least_explained(before.double(), after.double(), self.mixed)
        mixture = torch.randn(self.mixed, generator=torch_generator(self.seed, "read-out"))
        readout = directions @ mixture.double()
        raw = after.double() @ readout
        readout, offset = readout / raw.std(), -raw.mean() / raw.std()
        return Teacher(loaded, changed, readout, float(offset))

    @torch.no_grad()
    def change(self, backbone: nn.Module) -> dict[str, Tensor]:
        """Plant the change, and give the changed weights by name."""
        changed = {}
        for name, linear in self.chosen(backbone).items():
            generator = torch_generator(self.seed, "update", name)
            linear.weight.copy_(self.changed(linear.weight, generator))
            changed[name] = linear.weight.detach().float()
        return changed

    def chosen(self, backbone: nn.Module) -> dict[str, nn.Linear]:
        """The linear layers that are changed."""
        found = target_linears(backbone, self.targets)
        depth = 1 + max(block(name) for name in found)
        for layer in self.layers:
            if not -depth <= layer < depth:
                raise ValueError(f"layers must lie in {-depth} to {depth - 1}, got {layer}.")
        wanted = {layer % depth for layer in self.layers}
        if not wanted:
            raise ValueError("layers must name at least one block, got none.")
        return {name: linear for name, linear in found.items() if block(name) in wanted}

    def changed(self, W0: Tensor, generator: torch.Generator) -> Tensor:
        """A weight [d_out, d_in] with a change of the task's kind."""
        d_out, d_in = W0.shape
        if self.rank is None:
            return W0 * torch.exp(self.size * torch.randn(d_out, 1, generator=generator))
        left = torch.randn(d_out, self.rank, generator=generator)
        update = left @ torch.randn(self.rank, d_in, generator=generator)
        W = W0 + self.size * update * W0.norm() / update.norm()
        if self.kind == "low_rank":
            return W
        return W * W0.norm(dim=1, keepdim=True) / W.norm(dim=1, keepdim=True)


def block(name: str) -> int:
    """The number of the block that a layer stands in."""
    return next(int(part) for part in name.split(".") if part.isdigit())


def draw_texts(seed: int, number: int, split: str) -> list[str]:
    """Different sentences of the suite's unlabelled text; no two splits share one."""
    share = SHARES.get(split)
    found: dict[str, None] = {}
    for passage in passages(derive_seed(seed, "planted", split)):
        for text in passage:
            place = hashlib.sha256(text.encode()).digest()[0]
            if share is None or place in share:
                found[text] = None
            if len(found) == number:
                return list(found)
    raise AssertionError("The text has no end.")


def tokens(loaded: Loaded, texts: list[str], max_length: int) -> Encoded:
    """Texts as the model reads them."""
    split = Split(np.arange(len(texts)), [(text,) for text in texts], None, "", "")
    return encode(loaded.tokenizer, split, max_length)


@torch.no_grad()
def states(loaded: Loaded, data: Encoded) -> Tensor:
    """The last hidden states [n, width] at the token that the task head looks at."""
    model = loaded.model.eval()
    order = np.argsort(data.lengths, kind="stable")
    found = []
    for start in range(0, len(order), 64):
        found.append(model.summaries(data.batch(order[start : start + 64])))
    result = torch.cat(found)
    return torch.empty_like(result).index_copy_(0, torch.from_numpy(order), result)


def raise_diagonal(products: Tensor, share: float) -> Tensor:
    """A matrix of products with this share of its mean diagonal added to its diagonal."""
    identity = torch.eye(len(products), dtype=products.dtype)
    return products + share * products.diagonal().mean() * identity


def least_explained(before: Tensor, after: Tensor, number: int) -> Tensor:
    """Directions [width, number] of `after` [n, width], of variance one and uncorrelated, of which
    a linear function of `before` explains the least."""
    before, after = before - before.mean(dim=0), after - after.mean(dim=0)
    # States of a norm lie in fewer dimensions than they have; what is rounding in the others would
    # decide a plain least-squares fit, and another process would round otherwise.
    explained = torch.linalg.solve(raise_diagonal(before.T @ before, TINY), before.T @ after)
    left = after - before @ explained
    root = torch.linalg.cholesky(raise_diagonal(after.T @ after / len(after), RIDGE))
    whitened = torch.linalg.solve_triangular(root, left.T, upper=False)
    _, vectors = torch.linalg.eigh(whitened @ whitened.T / len(after))
    best = vectors[:, -number:].flip(1)
    # An eigenvector's sign is a machine's choice.
    best = best * best.gather(0, best.abs().argmax(dim=0, keepdim=True)).sign()
    return torch.linalg.solve_triangular(root.T, best, upper=True)
