"""A run with everything it needs in memory: data read, model adapted, batches laid out."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from experiments.adapters import saved
from experiments.backbones import kernels
from experiments.backbones.layers import PRECISIONS, float_masters
from experiments.data.batches import Batches, Encoded
from experiments.data.splits import Data, Split
from experiments.machine.distributed import init_process_group
from experiments.machine.processor import DEFAULT, configure_products, fastest, threads_for
from experiments.machine.randomness import numpy_generator, seed_everything, torch_generator
from experiments.models.general_text import HeldOut
from experiments.models.general_text import prepare as measure_pretrained
from experiments.models.model import Loaded
from experiments.running import memory
from experiments.running.validation import hold_out
from experiments.settings.config import Run
from experiments.stored import kinds
from experiments.training.loop import Train, TrainingPlan
from experiments.training.prefix import with_prefix
from experiments.training.probe import ProbeRun
from variants.base import adapter_layers

FIXED = 0  # seeds the rows that `train.examples` keeps, where all runs train on the same


@dataclass(frozen=True)
class PreparedRun:
    """Everything that the phases of a run work on."""

    run: Run
    device: torch.device
    data: Data
    loaded: Loaded
    examples: Encoded  # what is trained on
    rows: str  # a hash of the rows that are trained on
    batches: Batches
    plan: TrainingPlan
    products: str  # how matrices of float32 are multiplied, as torch names it
    threads: int
    held_out: HeldOut | None = None  # general text, where the first process measures forgetting
    validation: Encoded | None = None  # rows held out of the train split, if any are


def prepare_run(run: Run, data: Data) -> PreparedRun:
    """Load, adapt and lay out; the head is drawn before any method touches the model.

    Threads and products are chosen here; whoever trains or evaluates enters
    `configure_products` with them.
    """
    train, device = run.train, run.compute.pick_device()
    world = init_process_group(device)
    if world.first:
        memory.announce(run, data, device, world.size)
    seed_everything(run.seed)  # whatever a method has drawn for the forecast
    loaded = load_base(run)
    held_out = measure_forgetting(run, loaded, device) if world.first else None
    adapt(run, loaded, device)
    products: str = world.share(matmul_precision(train, device, loaded))
    threads = threads_for(loaded.width)
    if loaded.model.engine.name == "packed" and device.type == "cpu":
        kernels.load(PRECISIONS[train.precision])  # and let no step wait for them
    run.task.check(loaded, data, run.limits)
    rest, held = hold_out(run.task, data.train, train.held_out)
    validation = None if held is None else run.task.encode(loaded.tokenizer, held, train.max_length)
    chosen = subset(rest, train.examples, run.seed if train.subset == "per_seed" else FIXED)
    examples = run.task.encode(loaded.tokenizer, chosen, train.max_length)
    if train.prefix_cache:
        if loaded.model.engine.name != "packed":
            raise ValueError(f"train.prefix_cache needs a packed pass; {run.model.name} has none.")
        with configure_products(products, threads):
            examples = with_prefix(examples, loaded.model)
    batches = Batches(examples, train.batch_size, train.accumulate, run.seed, world)
    total = train.total_steps(batches.steps_per_epoch)
    plan = TrainingPlan(train, run.variant.lr * run.model.lr_scale, total)
    rows = rows_hash(chosen)
    return PreparedRun(
        run, device, data, loaded, examples, rows, batches, plan, products, threads, held_out,
        validation,
    )  # fmt: skip


def prepare_method(job: PreparedRun) -> None:
    """Let the method look at data or train briefly, as it must before its own training."""
    probe = ProbeRun(job.loaded.model, job.run.variant, job.examples, job.plan, job.run.seed)
    job.run.variant.prepare(job.loaded.model.backbone, probe.probe())


def matmul_precision(train: Train, device: torch.device, loaded: Loaded) -> str:
    """How matrices of float32 are multiplied: on a processor, as is fastest there."""
    # transformers' attention is several times slower under the other setting.
    ours = loaded.model.engine.name == "packed" and train.precision == "fp32"
    return fastest(loaded.width) if device.type == "cpu" and ours else DEFAULT


def measure_forgetting(run: Run, loaded: Loaded, device: torch.device) -> HeldOut | None:
    """Measure the pretrained model on general text, if the run asks for it, as it is trained."""
    text, model = run.general_text, loaded.model
    if text is None:
        return None
    # A method adapts the model under the settings that every process begins with.
    with configure_products(matmul_precision(run.train, device, loaded), threads_for(loaded.width)):
        model.to(device)
        found = measure_pretrained(text, loaded, run.model.name, run.limits)
        model.to("cpu")
    return found


def load_base(run: Run) -> Loaded:
    """The pretrained model and a new head; raises ValueError if they do not suit the run."""
    if run.model.head is not None and not run.task.num_outputs:
        raise ValueError(
            f"model.head={run.model.head} is of no use to task '{run.task.name}', which has no "
            "head; leave it null."
        )
    generator = torch_generator(run.seed, "head")
    loaded = run.model.load(run.task.num_outputs, generator, run.train.precision)
    run.task.configure(loaded, run.model.name)
    if run.train.max_length > loaded.max_length:
        raise ValueError(
            f"train.max_length is {run.train.max_length}, and {run.model.name} reads at most "
            f"{loaded.max_length} tokens."
        )
    engine = run.compute.forward_passes(run.train.precision)
    loaded.model.engine = engine.prepare(loaded.model.backbone)
    return loaded


def adapt(run: Run, loaded: Loaded, device: torch.device) -> None:
    """Put the method's layers in place, and the model on its device."""
    # On the CPU first, so that every device starts from the same draws.
    run.variant.adapt(loaded.model.backbone)
    if not any(parameter.requires_grad for parameter in loaded.model.parameters()):
        raise ValueError(
            f"Nothing trains in {run.title}: the method trains nothing in the backbone, and the "
            "model has no head for this task."
        )
    float_masters(loaded.model)
    if run.start is not None:
        begin_with(Path(run.start), run, loaded.model.backbone)
    loaded.model.to(device)


def begin_with(folder: Path, run: Run, backbone: nn.Module) -> None:
    """Put the adapter of a finished run into an adapted backbone; the head stays a new one.

    Raises ValueError for one of another method or another base.
    """
    # The run's own command has named these classes, so the folder may mean them too.
    adapter = saved.read_adapter(folder, kinds.among(type(run.variant), type(run.model)))
    if type(adapter.variant) is not type(run.variant):
        raise ValueError(
            f"start={folder} holds an adapter of {type(adapter.variant).__name__}, and this run is "
            f"one of {type(run.variant).__name__}."
        )
    saved.check_base(adapter)
    saved.load_state(adapter, backbone)
    check_function(adapter, run, backbone)


def check_function(adapter: saved.Adapter, run: Run, backbone: nn.Module) -> None:
    """Raise ValueError if the adapter's tensors mean something else with the run's settings."""
    known = dict(adapter_layers(saved.load(adapter).model.backbone))
    with torch.no_grad():
        same = all(
            torch.equal(layer.merged_weight(), known[name].merged_weight())
            for name, layer in adapter_layers(backbone)
        )
    if same:
        return
    mine = {f"variant.{key}": value for key, value in vars(run.variant).items()}
    mine["train.precision"] = run.train.precision
    theirs = {f"variant.{key}": value for key, value in vars(adapter.variant).items()}
    theirs["train.precision"] = adapter.precision
    other = [
        f"{key}={value}, which is {theirs[key]} there"
        for key, value in mine.items()
        if value != theirs[key] and key != "variant.lr"
    ]
    raise ValueError(
        f"The adapter in {adapter.folder} is another function with {', or '.join(other)}."
    )


def subset(split: Split, examples: int | None, seed: int) -> Split:
    """A random subset of this size, in the order of the file; methods share it at one seed."""
    if examples is None or examples >= len(split):
        return split
    chosen = numpy_generator(seed, "subset").permutation(len(split))[:examples]
    return split.take(np.sort(chosen))


def rows_hash(split: Split) -> str:
    """A hash of the numbers of a split's rows in its file."""
    return hashlib.sha256(np.ascontiguousarray(split.ids, dtype=np.int64).tobytes()).hexdigest()
