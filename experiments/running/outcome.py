"""Write the result of a finished run, and the files beside it."""

from typing import Any

import numpy as np

from experiments.adapters import saved
from experiments.disk.files import hash_file
from experiments.disk.folders import SNAPSHOTS
from experiments.models.inference import Evaluated
from experiments.results import code
from experiments.results.provenance import provenance
from experiments.results.result import (
    PREDICTIONS,
    Origin,
    Result,
    write_predictions,
)
from experiments.running import evaluation
from experiments.running.job import PreparedRun
from experiments.running.recorder import Recorder
from experiments.settings.config import describe
from experiments.training.measure import count_flops, count_parameters, latency, memory_kind

LATENCY_BATCH = 32


def collect(
    job: PreparedRun,
    recorder: Recorder,
    evaluated: dict[str, Evaluated],
    failure: str | None,
    origin: Origin,
    forgotten: dict[str, Any] | None = None,
) -> Result:
    """The result of a run, complete or diverged."""
    run, earlier = job.run, recorder.checkpoints.earlier_codes
    return Result(
        status="diverged" if failure else "complete",
        failure=failure,
        label=run.label,
        seed=run.seed,
        primary=evaluation.primary(run.task, evaluated) if evaluated else {},
        scores=evaluation.scores(run.task, evaluated),
        cost=cost(job, recorder, evaluated),
        telemetry={
            "starts_as_pretrained": float(run.variant.starts_as_pretrained),
            **run.variant.telemetry(job.loaded.model.backbone),
        },
        examples=count_examples(job, evaluated),
        fingerprint=recorder.key,
        config=describe(run),
        choices=dict(origin.choices),
        overrides=list(origin.overrides),
        paper=run.paper if origin.keeps_paper() else None,
        provenance={
            **provenance(job.device),
            "processes": job.batches.world.size,
            "engine": job.loaded.model.engine.name,
            # A run that was taken up again may have begun by other code.
            "earlier_code": [one for one in earlier if one != code.hash_shared_code()],
            "method_code": code.hash_method_code(type(run.variant).__module__),
        },
        epochs=recorder.epochs.scores,
        forgetting=forgotten,
        folder=recorder.folder,
    )


def write(job: PreparedRun, evaluated: dict[str, Evaluated], result: Result) -> None:
    """Write adapter, head and predictions, then the result that declares them complete."""
    if evaluated:
        folder = result.folder
        adapter = saved.of_run(job.run, job.loaded, result.fingerprint["model"])
        result.files.update(saved.write(adapter, folder))
        predictions = evaluation.predictions(job.run.task, evaluated)
        for path in sorted((folder / SNAPSHOTS).glob("*.safetensors")):
            result.files[f"{SNAPSHOTS}/{path.name}"] = hash_file(path)
        result.files[PREDICTIONS] = write_predictions(folder, predictions)
        for name, item in evaluated.items():
            job.run.task.write(folder, name, item)
        result.cost["bytes"] = {
            "adapter": (folder / saved.ADAPTER).stat().st_size,
            "head": (folder / saved.HEAD).stat().st_size if job.run.task.num_outputs else 0,
        }
    result.write()


def cost(job: PreparedRun, recorder: Recorder, evaluated: dict[str, Evaluated]) -> dict[str, Any]:
    """Parameters, seconds, memory, arithmetic and latency of the run."""
    meter = recorder.meter
    clock, phases = meter.clock, meter.phases
    model, variant = job.loaded.model, job.run.variant
    parts = [part.to(job.device) for part in job.batches.parts(1)]
    flops = count_flops(model, lambda: variant.penalty(model.backbone), parts)
    found = {
        "parameters": count_parameters(model),
        "seconds": {name: phase.seconds for name, phase in phases.items()},
        "processor_seconds": {name: phase.processor_seconds for name, phase in phases.items()},
        "peak_mib": {name: phase.peak_mib for name, phase in phases.items()},
        "memory": memory_kind(job.device, phases["train"]),
        "restarts": recorder.checkpoints.restarts,
        "steps": clock.summary(),
        "flops": flops | {"training": flops["training_per_token"] * clock.padded},
    }
    # The steps of every process that took part, where the phase only knows the last.
    found["seconds"]["train"] = sum(clock.seconds())
    found["processor_seconds"]["train"] = clock.processor_seconds
    if found["peak_mib"]["train"] is not None:
        found["peak_mib"]["train"] = max(found["peak_mib"]["train"], meter.earlier_peak)
    found["seconds"]["evaluate"] += meter.scoring.seconds
    found["processor_seconds"]["evaluate"] += meter.scoring.processor_seconds
    prefix = job.examples.prefix
    if prefix is not None:
        found["prefix"] = {"blocks": prefix.blocks, "seconds": prefix.seconds}
    if evaluated:
        split = next(iter({**job.data.score, **job.data.predict}.values()))
        rows = np.arange(min(LATENCY_BATCH, len(split)))
        encoded = job.run.task.encode(
            job.loaded.tokenizer, split.take(rows), job.run.train.max_length
        )
        found["latency"] = latency(model, encoded.batch(rows).to(job.device))
    return found


def count_examples(job: PreparedRun, evaluated: dict[str, Evaluated]) -> dict[str, Any]:
    """How many examples there were by split, how many were cut or left out, and where from."""
    data = job.data
    splits = {"train": data.train, **data.score, **data.predict}
    return {
        "source": {name: split.origin for name, split in splits.items()},
        "available": {name: len(split) for name, split in splits.items()},
        "trained_on": len(job.examples),
        "rows": job.rows,
        "skipped": {name: split.skipped for name, split in splits.items() if split.skipped},
        "truncated": {
            "train": job.examples.truncated,
            **{name: item.truncated for name, item in evaluated.items()},
        },
        "task_version": job.run.task.version,
    }
