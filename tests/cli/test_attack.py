"""A drawn part of `make attack`: damaged files before commands, kills and failing disks."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from attack import kills, table

CASES = 60
EVENTS = {"classification": 4, "generation": 2, "export": 2}


@pytest.fixture
def as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_damaged_files_are_named_or_have_no_effect(tmp_path: Path) -> None:
    table.make_victims(tmp_path / "victims")
    found = table.attack(
        tmp_path / "victims", tmp_path, lambda cases: random.Random(1).sample(cases, CASES)
    )
    assert len(found.outcomes) == CASES
    assert {key: (found.outcomes[key], found.said[key][-300:]) for key in found.bad} == {}


def test_after_a_kill_or_a_failing_disk_the_same_command_ends_as_if_there_had_been_none(
    tmp_path: Path, as_before: None
) -> None:
    outcomes = list(
        kills.attack(
            tmp_path,
            lambda events, name: random.Random(name).sample(events, EVENTS[name]),
            ",".join(EVENTS),
        )
    )
    assert len(outcomes) == 2 * sum(EVENTS.values())
    assert [outcome for outcome in outcomes if outcome.bad] == []
