"""One run from settings to result: the whole story on one screen."""

from contextlib import nullcontext
from pathlib import Path

import torch

from experiments.disk.locks import exclusive
from experiments.disk.outputs import link_latest
from experiments.machine.distributed import init_process_group
from experiments.machine.processor import configure_products, multiplying
from experiments.machine.randomness import derive_seed, seed_everything
from experiments.models import general_text
from experiments.models.inference import Evaluated
from experiments.results.result import Diverged, Origin, Result, mark_unfinished, read_result
from experiments.running import evaluation, outcome
from experiments.running.console import Console
from experiments.running.finished import fingerprint
from experiments.running.job import PreparedRun, prepare_method, prepare_run
from experiments.running.recorder import Recorder
from experiments.running.showing import show, show_samples
from experiments.settings.config import Run, describe
from experiments.stored.result import NAME, differing
from experiments.training.loop import fit
from experiments.training.measure import enough_memory


def execute(run: Run, out: Path, origin: Origin | None = None) -> Result:
    """Carry out a run in the folder `out`, or take it up again there, or read what it gave.

    Raises Diverged, with the result written, if training went wrong.
    """
    # What this machine cannot do is said before anything is downloaded.
    device = run.compute.pick_device()
    if device.index is not None:
        torch.cuda.set_device(device)  # clocks and generators are those of the current one
    world = init_process_group(device)
    out = world.share(out)
    run.tracker.check_key()
    data = run.protocol.load(run.task, run.data)
    if not data.score:
        raise ValueError("task.score_on must name at least one split, got none.")
    key = fingerprint(describe(run), data, run.model, run.general_text)
    if (out / "result.json").exists():
        return find_result(run, out, key)
    with (
        exclusive(out) if world.first else nullcontext(),
        enough_memory(),
        multiplying(device, run.train.precision),
    ):
        if world.size == 1 and (out / "result.json").exists():
            return find_result(run, out, key)  # of a process that was here meanwhile
        if world.first:
            mark_unfinished(out)
        job = prepare_run(run, data)
        if not world.first:
            return run_worker_process(job, out, key)
        return run_main_process(job, out, key, origin or Origin())


def run_main_process(job: PreparedRun, out: Path, key: dict, origin: Origin) -> Result:
    """Prepare, train, evaluate, and write what came of it."""
    run = job.run
    with Console(job, out) as console, run.tracker.start(out, run.title, describe(run)) as tracked:
        progress = console.progress
        recorder = Recorder(job, out, key, [progress.log, tracked.log], watchers=[progress])
        with configure_products(recorder.checkpoints.products, job.threads):
            prepare(job, recorder)
            failure = train(job, recorder)
            evaluated = {} if failure else evaluate(job, recorder)
            forgotten = measure_forgetting(job) if evaluated else None
            broken = evaluation.not_finite(evaluated) or general_text.not_finite(forgotten)
            if failure := failure or broken:
                evaluated, forgotten = {}, None
            result = outcome.collect(job, recorder, evaluated, failure, origin, forgotten)
        outcome.write(job, evaluated, result)
        tracked.summarise(result)
    job.batches.world.share(result)
    if failure:
        raise Diverged(f"{failure} It is recorded in {out / 'result.json'}.")
    link_latest(out)
    show(result, run.task.given)
    for item in evaluated.values():
        show_samples(run.task.samples(item))
    return result


def run_worker_process(job: PreparedRun, out: Path, key: dict) -> Result:
    """Do a further process's share of the training; return the first process's result."""
    recorder = Recorder(job, out, key, listeners=[])
    with configure_products(recorder.checkpoints.products, job.threads):
        prepare(job, recorder)
        train(job, recorder)
    result = job.batches.world.share(None)
    if result.failure:
        raise Diverged(f"{result.failure} It is recorded in {out / 'result.json'}.")
    return result


def find_result(run: Run, out: Path, key: dict) -> Result:
    """The result in the folder, if it is that of this very run."""
    result = read_result(out)
    changed = differing(result.fingerprint, result.schema, key)
    if changed:
        raise ValueError(
            f"{out / NAME} holds the result of another run (the {' and the '.join(changed)} "
            "differ); delete it, or choose another folder."
        )
    if result.failure:
        raise Diverged(f"{out} holds a diverged run: {result.failure} Delete it to try again.")
    print("Already done:")
    show(result, run.task.given)
    return result


def prepare(job: PreparedRun, recorder: Recorder) -> None:
    """Prepare the method; a run taken up again has that behind it."""
    if recorder.checkpoints.path.exists():
        recorder.checkpoints.restore_model()
    elif job.run.start is None:  # else its structure is that of the adapter it begins with
        with recorder.meter.phase("prepare"):
            prepare_method(job)
            sync_adapter_state(job)


def sync_adapter_state(job: PreparedRun) -> None:
    """Begin in every process as in the first: a device may have rounded `prepare` otherwise."""
    world, variant, backbone = job.batches.world, job.run.variant, job.loaded.model.backbone
    if world.size > 1:
        state = {name: tensor.cpu() for name, tensor in variant.learned_state(backbone).items()}
        variant.load_state(backbone, world.share(state))


def train(job: PreparedRun, recorder: Recorder) -> str | None:
    """Train; returns what went wrong where the loss did."""
    # Again: methods have drawn different amounts, and all start dropout from here.
    rank = job.batches.world.rank
    # Each process has masks of its own; the first one's are those of a run in one.
    seed_everything(derive_seed(job.run.seed, "training", *([rank] if rank else [])))
    with recorder.meter.phase("train"), enough_memory():
        try:
            fit(job.loaded.model, job.run.variant, job.batches, job.plan, recorder)
        except Diverged as error:
            return str(error)
    return None


def measure_forgetting(job: PreparedRun) -> dict[str, float | int] | None:
    """The losses of general text before and after training, if the run asks for them."""
    if job.held_out is None:
        return None
    return general_text.compare(job.held_out, job.loaded, job.run.limits.batch_size)


def evaluate(job: PreparedRun, recorder: Recorder) -> dict[str, Evaluated]:
    """The trained model's outputs on every split that is scored or predicted."""
    if job.run.protocol.best_epoch:
        recorder.epochs.restore_best()
    with recorder.meter.phase("evaluate"):
        return {
            name: job.run.task.evaluate(job.loaded, split, job.run.limits)
            for name, split in {**job.data.score, **job.data.predict}.items()
        }
