"""The hash of the code that decides a run's numbers."""

import pytest

from experiments.results import code
from experiments.stored import kinds

SOURCE = (
    b'"""Says what it is for."""\n\n\n'
    b'def scale(alpha):\n    """Twice alpha."""\n    return 2 * alpha\n'
)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (SOURCE.replace(b"Twice", b"Two times"), True),
        (SOURCE.replace(b"Says what", b"Says again what"), True),
        (SOURCE.replace(b"    return", b"    # A reason.\n\n    return"), True),
        (SOURCE.replace(b"2 * alpha", b"(2 * alpha)"), True),
        (SOURCE.replace(b"2 * alpha", b"3 * alpha"), False),
        (SOURCE.replace(b"2 * alpha", b"'2' * alpha"), False),
        (SOURCE + b"scale = None\n", False),
    ],
)
def test_comments_and_docstrings_do_not_count_and_all_else_does(changed: bytes, same: bool) -> None:
    assert (code.what_runs(changed) == code.what_runs(SOURCE)) is same


def test_a_function_of_a_docstring_alone_is_still_there() -> None:
    assert code.what_runs(b"def f():\n    'Text.'\n") != code.what_runs(b"")


def change(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[str, dict[str, str]]:
    """The hashes after a line was added to a file: the shared one, and those of methods."""
    monkeypatch.setitem(code.SOURCES, name, code.SOURCES[name] + b"\nADDED = 1\n")
    return hashes()


def hashes() -> tuple[str, dict[str, str]]:
    code.hash_shared_code.cache_clear()
    code.hash_method_code.cache_clear()
    modules = {t.rpartition(".")[0] for t in kinds.table()[kinds.METHODS].values()}
    return code.hash_shared_code(), {
        module: code.hash_method_code(module) for module in sorted(modules)
    }


def test_a_change_counts_for_the_methods_it_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, methods = hashes()
    assert len(set(methods.values())) == len(methods)
    new_shared, new = change(monkeypatch, "variants/lora.py")
    assert new_shared == shared
    changed = {module for module in methods if new[module] != methods[module]}
    assert {"variants.lora", "variants.dora"} <= changed and "variants.bitfit" not in changed
    newer_shared, newer = change(monkeypatch, "experiments/training/loop.py")
    assert newer_shared != shared and newer == new
    monkeypatch.undo()
    assert hashes() == (shared, methods)


def test_what_shows_or_plans_does_not_count() -> None:
    assert not {f"experiments/running/{name}.py" for name in ("console", "progress", "remarks")} & (
        code.SOURCES.keys()
    )
    assert not any(
        name.startswith(("experiments/study/", "experiments/mini/")) for name in code.SOURCES
    )
    assert {"experiments/training/loop.py", "variants/base.py"} <= code.SOURCES.keys()
    for part in code.BESIDE:
        assert (code.ROOT / part).exists(), part


def test_a_method_from_elsewhere_has_the_hash_of_no_file() -> None:
    assert code.hash_method_code("notebook.mine") == code.hash_sources([])
