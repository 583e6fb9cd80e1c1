"""One training step of ours against the peers', in turn, on the same random batches of real data.

    python benchmarks/step.py --data GLUE [--bf16] [--variants NAME ...] [--padded T] [--json PATH]
    python benchmarks/step.py --data E2E --tasks e2e --model smollm2 --set task.label_smoothing=0
    python benchmarks/step.py --data GLUE --check

Who the peers are is told in benchmarks/peers.py. Everything is built, takes two steps to warm up,
and then one step in each round; ratios are medians over the rounds, of time on one core (on a GPU,
of its own clock). `--padded T` gives all of them texts of T tokens, so that there is no padding.
The peak is what F.linear is measured to reach, and the share of it counts only the arithmetic that
real tokens need. `--check` compares loss and gradients with PEFT's, dropout off, and no times.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
import torch
import torch.nn.functional as F
from common import Ours
from peers import Stepping, plain_name
from torch import Tensor
from transformers import PreTrainedConfig

from experiments.backbones.heads import as_in_transformers
from experiments.backbones.layers import PRECISIONS
from experiments.families.base import family_of
from experiments.machine.processor import multiplying
from experiments.running.job import PreparedRun
from experiments.settings.config import Run
from experiments.training.loop import TrainingListener

WARM_UP = 2
AGAIN = "again"  # the first one once more
Engine = Ours | Stepping
Texts = list[tuple[int, int]]  # of each the tokens, and how many of them are read


def engines(given: argparse.Namespace, task: str, out: Path) -> list[Engine]:
    """All that take their turn: ours, the peers, and the first one once more."""
    plans = our_plans(given)
    first = plans[next(iter(plans))]
    data = common.data_of(our_run(given, task, *first), given.padded)
    built = {
        name: common.ours(name, our_run(given, task, *plan), data)
        for name, plan in {**plans, AGAIN: first}.items()
    }
    last = built.pop(AGAIN)
    found = [Stepping(name, last.job, out) for name in common.peers(given)]
    return [*built.values(), *found, last]


def our_plans(given: argparse.Namespace) -> dict[str, tuple[str, list[str]]]:
    """Ours by name: the variant, and the overrides of its form."""
    forms = common.forms(given)
    loras = {name: ("lora", overrides) for name, overrides in forms.items()}
    others = {
        f"{name} {variant}": (variant, overrides)
        for variant in given.variants
        for name, overrides in forms.items()
        if variant != "lora"
    }
    return loras | others


def our_run(given: argparse.Namespace, task: str, variant: str, overrides: list[str]) -> Run:
    """One of ours."""
    return common.step_run(given, task, f"variant={variant}", *overrides)


def rounds(found: list[Engine], count: int) -> dict[str, list[float]]:
    """Seconds of every step by name; the steps to warm up are not among them."""
    device = found[0].job.device
    times: dict[str, list[float]] = {engine.name: [] for engine in found}
    for number in range(1, WARM_UP + count + 1):
        for engine in found:
            ready = engine.ready(number)
            seconds = span(partial(engine.step, ready), device)
            if number > WARM_UP:
                times[engine.name].append(seconds)
    return times


def ratios_to(times: dict[str, list[float]], name: str, base: str) -> dict[str, float]:
    """How many times as long one takes as another, round by round."""
    pairs = zip(times[name], times[base], strict=True)
    return common.quoted([one / other for one, other in pairs])


def arithmetic(config: PreTrainedConfig, texts: Texts) -> float:
    """Operations of the frozen model's step on real tokens, with no gradient of its weights.

    Where tokens are predicted, those that are read have the table's product too.
    """
    d, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * d
    heads = config.num_attention_heads
    share = (getattr(config, "num_key_value_heads", None) or heads) / heads
    own = getattr(config, "head_dim", None) or d // heads
    q, kv = d * own * heads, 2 * share * d * own * heads  # and the output has as many as q
    feed = (3 if hasattr(config, "rms_norm_eps") else 2) * d * inner
    tokens, read = (sum(column) for column in zip(*texts, strict=True))
    # Of tokens that are not read the last layer needs keys and values only.
    weights = tokens * ((layers - 1) * (2 * q + kv + feed) + kv) + read * (2 * q + feed)
    if read > len(texts):
        weights += read * d * config.vocab_size
    seen = sum((layers - 1) * length**2 + length * queries for length, queries in texts)
    # The first layer's q, k and v pass no gradient on.
    return 4 * weights - 2 * tokens * (q + kv) + 3 * 4 * own * heads * seen


def peak(device: torch.device, dtype: torch.dtype, d: int, tokens: int) -> float:
    """Operations per second that F.linear reaches at best, in a large shape and in the model's."""
    found = []
    for m, k, n in ((4096, 768, 768), (tokens, d, 4 * d)):
        x, w = (torch.randn(shape, device=device).to(dtype) for shape in ((m, k), (n, k)))
        found += [2 * m * k * n / fastest(lambda x=x, w=w: F.linear(x, w), device)]
        if device.type == "cpu" and dtype == torch.float32:
            found += [2 * m * k * n / fastest(lambda x=x, w=w: F.linear(x, w), device, "medium")]
    return max(found)


def fastest(work: Callable[[], Tensor], device: torch.device, precision: str = "highest") -> float:
    """The least seconds of a call out of ten; without end where the precision is not float32's."""
    exact, before = work(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    # What lies beneath may round to bfloat16, and is no peak of float32 then.
    same = (work() - exact).abs().max() <= 1e-4 * exact.abs().max()
    seconds = [span(work, device) for _ in range(10)] if same else [float("inf")]
    torch.set_float32_matmul_precision(before)
    return min(seconds)


def span(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call: the processor's, or the GPU's from the first launch to the last end."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / 1000
    started = time.process_time()
    work()
    return time.process_time() - started


def precision(engine: Engine) -> str:
    """Return the precision of an engine's matrix products."""
    if isinstance(engine, Stepping):
        return "bf16" if engine.peer.autocast else "fp32"
    return engine.job.run.train.precision


def measured(given: argparse.Namespace, task: str) -> dict[str, Any]:
    """All figures of one task."""
    before, bases = common.load(), list(common.forms(given))
    with TemporaryDirectory() as out:
        found = engines(given, task, Path(out))
        job = found[0].job
        steps = timed_texts(job, given.rounds)
        tokens = round(sum(length for texts in steps for length, _ in texts) / given.rounds)
        peaks = peaks_of(job, tokens)
        times = rounds(found, given.rounds)
    figures = {engine.name: figures_of(engine, times, steps, bases) for engine in found}
    again = figures.pop(AGAIN)["over"][bases[0]]["median"]
    return {
        "tokens_per_step": tokens, "peaks": peaks, "a_over_a": again, "steps": figures,
        "load": [before, common.load()], "machine": common.machine(job.device),
    }  # fmt: skip


def timed_texts(job: PreparedRun, count: int) -> list[Texts]:
    """The texts of each of the steps that are timed."""
    data, numbers = job.batches.data, range(WARM_UP + 1, WARM_UP + count + 1)
    return [
        [(int(data.lengths[row]), data.num_labels(np.array([row]))) for row in job.batches.rows(n)]
        for n in numbers
    ]


def figures_of(
    engine: Engine, times: dict[str, list[float]], steps: list[Texts], bases: list[str]
) -> dict[str, Any]:
    """Summarise the timed steps of one engine."""
    config = engine.job.run.model.config()
    total = sum(times[engine.name])
    return {
        "precision": precision(engine),
        "seconds": common.quoted(times[engine.name]),
        "samples_per_second": sum(map(len, steps)) / total,
        "flops_per_second": sum(arithmetic(config, texts) for texts in steps) / total,
        "over": {base: ratios_to(times, engine.name, base) for base in bases},
    }


def peaks_of(job: PreparedRun, tokens: int) -> dict[str, float]:
    """The peak of each precision, near the size of the model's own products."""
    d = job.run.model.config().hidden_size
    found = {}
    for name, dtype in PRECISIONS.items():
        with multiplying(job.device, name):
            found[name] = peak(job.device, dtype, d, tokens)
    return found


def report(task: str, figures: dict[str, Any], padded: int | None) -> None:
    """Print one task's figures."""
    steps, peaks = figures["steps"], figures["peaks"]
    bases = list(next(iter(steps.values()))["over"])
    heading = "{} is faster" if padded is None else "{} takes of its time"
    columns = ["step", "samples/s", "ms", *(heading.format(base) for base in bases), "% of peak"]
    shape = "real lengths" if padded is None else f"texts of {padded} tokens"
    rows = [row(name, step, peaks, padded) for name, step in steps.items()]
    common.table(f"{task}, {shape}, {figures['tokens_per_step']} tokens a step", columns, rows)
    told = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in peaks.items())
    print(f"Peak of F.linear in GFLOP/s: {told}. Load {figures['load']}.")
    print(common.claim(figures["a_over_a"]))


def row(name: str, step: dict[str, Any], peaks: dict[str, float], padded: int | None) -> list[str]:
    """One engine's line: at equal shapes as a share of the peer's time, else as times faster."""
    ratios = [ratio if padded is None else common.inverse(ratio) for ratio in step["over"].values()]
    shown = [step["samples_per_second"], 1000 * step["seconds"]["median"]]
    share = 100 * step["flops_per_second"] / peaks[step["precision"]]
    return [name, *(f"{x:.1f}" for x in shown), *map(common.text, ratios), f"{share:.0f}"]


def check(given: argparse.Namespace, task: str) -> dict[str, float]:
    """The largest relative error of loss and gradients against PEFT's, by configuration of ours."""
    found = {}
    off = ["model.dropout=0.0", "variant.dropout=0.0"]
    for name, overrides in common.forms(given).items():
        run = our_run(given, task, "lora", [*off, *overrides])
        if run.model.config().model_type == "gpt2":
            raise ValueError("--check is for encoders: PEFT adapts GPT-2's q, k and v as one.")
        with TemporaryDirectory() as out:
            mine = common.ours(name, run, common.data_of(run, given.padded))
            found[name] = deviation(mine, Stepping("B32", mine.job, Path(out)))
        print(f"{task}, {name}: largest relative error {found[name]:.1e}")
    return found


def deviation(mine: Ours, theirs: Stepping) -> float:
    """The largest relative error of the loss and of every gradient, from the same tensors."""
    inner: Any = theirs.modules.get_submodule("base_model.model")
    prefix = inner.base_model_prefix
    own = [p for p in mine.job.loaded.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in own:
            if not parameter.any():  # else one factor's gradient would be zero
                parameter.normal_(std=0.02)
        given = tensors(mine, prefix)
        for name, parameter in named(theirs).items():
            parameter.copy_(given[name])
    loss = mine.stepper.backward(1, TrainingListener())
    expected = theirs.loop.backward(theirs.ready(1))
    for parameter in own:
        parameter.data = gradient(parameter)
    found = tensors(mine, prefix)
    errors = [relative(found[name], gradient(p)) for name, p in named(theirs).items()]
    return max([relative(loss, expected), *errors])


def gradient(parameter: Tensor) -> Tensor:
    """A gradient that there must be."""
    if parameter.grad is None:
        raise ValueError("A trained parameter has no gradient.")
    return parameter.grad


def tensors(mine: Ours, prefix: str) -> dict[str, Tensor]:
    """Return the parameters that train in our model, under PEFT's names."""
    model, run = mine.job.loaded.model, mine.job.run
    form = run.variant.to_peft(model.backbone)
    layers = {
        f"{prefix}.{layer}.{key}": tensor
        for layer, found in form.layers.items()
        for key, tensor in found.items()
    }
    head = model.head.state_dict()
    config = run.model.config()
    return layers | as_in_transformers(head, family_of(config).head_names(config))


def named(theirs: Stepping) -> dict[str, Tensor]:
    """Return the parameters that train in PEFT's model."""
    return {plain_name(n): p for n, p in theirs.modules.named_parameters() if p.requires_grad}


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest error as a share of the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    parser = common.step_arguments(__doc__)
    parser.add_argument("--variants", nargs="+", default=["lora"], help="of ours")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--check", action="store_true", help="exactness instead of time")
    given = parser.parse_args()
    torch.set_num_threads(1)
    work = check if given.check else measured
    with common.model_of(given):
        figures = {}
        for task in given.tasks:
            figures[task] = work(given, task)
            if not given.check:
                report(task, figures[task], given.padded)
    if not given.check:
        common.footnote(given)
    common.write(given.json, figures)


if __name__ == "__main__":
    main()
