"""Geometry of weight changes: hand-worked 2 x 3 cases, planted truths, and runs of every method."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import VARIANTS
from numpy import ndarray
from numpy.testing import assert_allclose

from analysis import geometry, matrices
from analysis.matrices import Change
from analysis.names import place
from experiments.adapters.peft_format import write_peft
from experiments.adapters.saved import read_adapter, restore
from experiments.running.runner import execute
from variants.base import adapter_layers

pytestmark = pytest.mark.thorough

SHARED = Path(__file__).parents[3] / "shared" / "data" / "loralib"
W0 = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
TURNED = np.array([[0.0, 0.0, 4.0], [0.0, 0.0, 0.0]])  # the first row becomes (3, 0, 4)
NAME = "encoder.layer.3.attention.self.query"


def one(delta: ndarray | tuple[ndarray, ndarray], base: ndarray | None = W0) -> dict[str, Change]:
    return {NAME: Change(base, delta)}


def orthonormal(generator: np.random.Generator, d: int, k: int) -> ndarray:
    return np.linalg.qr(generator.standard_normal((d, k)))[0]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


# By hand, on 2 x 3.


def test_a_name_says_layer_and_type() -> None:
    assert place(NAME) == {"name": NAME, "layer": 3, "matrix": "query"}
    assert place("encoder.layer.11.attention.output.dense")["matrix"] == "attention.output"
    assert place("encoder.layer.11.output.dense")["matrix"] == "output"
    assert place("h.0.attn.c_attn.q")["matrix"] == "q"
    assert place("h.7.mlp.c_proj") == {"name": "h.7.mlp.c_proj", "layer": 7, "matrix": "mlp.c_proj"}
    assert place("projection") == {"name": "projection", "layer": None, "matrix": "projection"}


def test_the_spectrum_of_a_diagonal_is_its_entries() -> None:
    table = matrices.spectra(one(np.array([[3.0, 0, 0], [0, 1, 0]])))
    assert table["index"].tolist() == [1, 2]
    assert_allclose(table["value"], [3, 1])
    assert_allclose(table["share"], [0.9, 0.1])
    assert set(table["layer"]) == {3} and set(table["matrix"]) == {"query"}


def test_norms_and_ranks_of_singular_values_three_and_one() -> None:
    (row,) = matrices.sizes(one(np.array([[3.0, 0, 0], [0, 1, 0]]))).to_dict("records")
    assert row["frobenius"] == pytest.approx(10**0.5)
    assert row["spectral"] == pytest.approx(3)
    assert row["stable_rank"] == pytest.approx(10 / 9)
    # The entropy of (3/4, 1/4) is log 4 - (3/4) log 3.
    assert row["effective_rank"] == pytest.approx(4 / 3**0.75)
    assert row["rank"] == 2
    assert row["relative"] == pytest.approx((10 / 13) ** 0.5)


def test_no_change_has_no_size_and_no_defined_rank() -> None:
    for zero in (np.zeros((2, 3)), (np.zeros((2, 0)), np.zeros((0, 3)))):
        (row,) = matrices.sizes(one(zero)).to_dict("records")
        assert row["frobenius"] == row["spectral"] == row["rank"] == row["relative"] == 0
        assert np.isnan(row["stable_rank"]) and np.isnan(row["effective_rank"])
        assert matrices.spectra(one(zero))["value"].sum() == 0
        (moved,) = matrices.magnitude_direction(one(zero)).to_dict("records")
        assert moved["magnitude"] == moved["direction"] == 0


def test_the_overlap_of_planes_that_share_an_axis() -> None:
    # The first spans e1, e2 in this order, the second e2, e3.
    phi = matrices.overlap(np.eye(3)[:, :2], np.eye(3)[:, 1:])
    assert_allclose(phi, [[0, 0], [1, 0.5]])


def test_the_amplification_of_a_direction_that_w0_has() -> None:
    delta = np.array([[0.0, 0, 0], [0, 6, 0]])  # along it W0 has 2, and along its own first 3
    (row,) = matrices.amplification(one(delta)).drop(columns=["name", "matrix"]).to_dict("records")
    expected = {"layer": 3, "rank": 1, "update": 6, "along": 2, "own": 3, "factor": 3}
    assert row == pytest.approx(expected | {"chance": (13 / 6) ** 0.5})
    (row,) = matrices.amplification(one(TURNED)).to_dict("records")
    assert row["along"] == 0 and np.isnan(row["factor"])


def test_a_row_that_turns_makes_an_intruder_on_the_right_and_none_on_the_left() -> None:
    right = matrices.intruders(one(TURNED), epsilon=0.7, side="right")
    assert_allclose(right["value"], [5, 2])
    assert_allclose(right["cosine"], [0.6, 1.0])
    assert right["intruder"].tolist() == [True, False]
    assert not matrices.intruders(one(TURNED), epsilon=0.5, side="right")["intruder"].any()
    assert_allclose(matrices.intruders(one(TURNED), epsilon=0.7)["cosine"], [1, 1])


def test_magnitude_and_direction_of_a_row_from_three_to_five() -> None:
    # Its length grows by 2 and its cosine is 3/5; the other row stays.
    (row,) = matrices.magnitude_direction(one(TURNED)).to_dict("records")
    assert row["magnitude"] == pytest.approx(1.0)
    assert row["direction"] == pytest.approx(0.2)


def test_what_needs_the_base_says_so_without_it() -> None:
    bare = one(TURNED, base=None)
    assert "relative" not in matrices.sizes(bare)
    for measure in (
        matrices.amplification,
        matrices.magnitude_direction,
        matrices.pretrained,
        lambda found: matrices.intruders(found, 0.5),
    ):
        with pytest.raises(ValueError, match="needs the pretrained weights"):
            measure(bare)


def test_wrong_questions_are_named() -> None:
    with pytest.raises(ValueError, match="side must be one of right, left, A, B, got 'up'"):
        matrices.similarity(one(TURNED), one(TURNED), "up")
    with pytest.raises(ValueError, match="side must be left or right, got 'A'"):
        matrices.intruders(one(TURNED), 0.5, side="A")
    with pytest.raises(ValueError, match="needs an update in two factors"):
        matrices.similarity(one(TURNED), one(TURNED), "A")
    with pytest.raises(ValueError, match=r"no matrix in common: .*query is in the first, other"):
        matrices.similarity(one(TURNED), {"other": Change(None, TURNED)})
    with pytest.raises(ValueError, match="has length zero"):
        matrices.magnitude_direction(one(TURNED, np.array([[1.0, 0, 0], [0, 0, 0]])))


# Planted truths.


def test_a_planted_spectrum_is_found_from_thin_factors_and_in_full(generator) -> None:
    U, V = orthonormal(generator, 40, 5), orthonormal(generator, 30, 5)
    S = np.array([7.0, 4.0, 2.0, 1.0, 0.5])
    mixed = generator.standard_normal((5, 5))
    B, A = U * S @ mixed, np.linalg.inv(mixed) @ V.T
    thin, full = Change(None, (B, A)), Change(None, B @ A)
    assert_allclose(thin.delta, full.delta)
    for change in (thin, full):
        found = matrices.svd(change)
        assert_allclose(found[1][:5], S)
        assert_allclose(np.abs((found[0][:, :5] * U).sum(axis=0)), 1)
        assert_allclose(np.abs((found[2][:5] * V.T).sum(axis=1)), 1)
        assert matrices.numerical_rank(found[1], change.shape) == 5
    assert len(matrices.svd(thin)[1]) == 5 and len(matrices.svd(full)[1]) == 30


def test_factors_as_wide_as_the_matrix_are_a_matrix(generator) -> None:
    B, A = generator.standard_normal((6, 9)), generator.standard_normal((9, 4))
    assert_allclose(matrices.svd(Change(None, (B, A)))[1], np.linalg.svd(B @ A)[1])


def test_a_zero_row_of_a_factor_lowers_the_rank(generator) -> None:
    B, A = generator.standard_normal((8, 3)), generator.standard_normal((3, 6))
    A[1] = 0
    (row,) = matrices.sizes(one((B, A), None)).to_dict("records")
    assert row["rank"] == 2
    assert matrices.vectors(Change(None, (B, A)), "A").shape == (6, 2)


def test_a_planted_shared_subspace_is_found_on_its_side(generator) -> None:
    """The two share 2 of 5 right directions, the strongest of both, and no left one."""
    right, left = orthonormal(generator, 30, 8), orthonormal(generator, 40, 10)
    S = np.array([9.0, 8.0, 3.0, 2.0, 1.0])
    first = left[:, :5] * S @ right[:, :5].T
    second = left[:, 5:] * S @ right[:, [1, 0, 5, 6, 7]].T
    table = matrices.similarity(one(first), one(second), "right").set_index(["i", "j"])
    phi = table["similarity"]
    assert phi[5, 5] == pytest.approx(0.4) and phi[2, 2] == pytest.approx(1)
    assert phi[1, 1] == pytest.approx(0, abs=1e-12) and phi[1, 2] == pytest.approx(1)
    assert phi[3, 5] == pytest.approx(2 / 3)
    assert_allclose(
        matrices.similarity(one(first), one(second), "left")["similarity"], 0, atol=1e-9
    )
    assert table["chance"][2, 5] == pytest.approx(5 / 30)


def test_chance_is_the_mean_over_random_subspaces(generator) -> None:
    draws = [
        matrices.overlap(orthonormal(generator, 12, 4), orthonormal(generator, 12, 3))
        for _ in range(4000)
    ]
    i, j = np.indices((4, 3)) + 1
    assert_allclose(np.mean(draws, axis=0), np.maximum(i, j) / 12, atol=0.01)


def test_sides_a_and_b_are_those_of_the_factors(generator) -> None:
    A = np.diag([1.0, 5.0, 3.0]) @ np.eye(3, 6)
    B = np.eye(7, 3)[:, ::-1] * np.array([2.0, 1.0, 4.0])
    change = Change(None, (B, A))
    assert_allclose(np.abs(matrices.vectors(change, "A")), np.eye(6)[:, [1, 2, 0]], atol=1e-12)
    assert_allclose(np.abs(matrices.vectors(change, "B")), np.eye(7)[:, [0, 2, 1]], atol=1e-12)


def test_against_w0_its_own_top_directions_are_wholly_inside(generator) -> None:
    base = generator.standard_normal((20, 15))
    U, S, Vh = np.linalg.svd(base)
    found = one(U[:, :3] @ Vh[[2, 0, 1]], base)
    table = matrices.similarity(found, matrices.pretrained(found), "right", most=6)
    phi = table.set_index(["i", "j"])["similarity"]
    assert phi[3, 3] == pytest.approx(1) and phi[3, 6] == pytest.approx(1)
    assert table["j"].max() == 6
    row = matrices.amplification(found, rank=3).iloc[0]
    assert row["own"] == pytest.approx(float(np.linalg.norm(S[:3])))


def test_a_planted_intruder_is_the_only_one(generator) -> None:
    base = generator.standard_normal((20, 30))
    left = orthonormal(generator, 20, 1)
    new = generator.standard_normal(30)
    new -= np.linalg.pinv(base) @ (base @ new)  # nothing that W0 has
    table = matrices.intruders(
        one(1000 * left @ new[None] / np.linalg.norm(new), base), 0.5, top=20, side="right"
    )
    assert table["cosine"][0] < 1e-2
    assert table["intruder"][0] and table["value"][0] == pytest.approx(1000, rel=1e-3)
    small = matrices.intruders(one(1e-6 * left @ new[None], base), 0.5, top=20, side="right")
    assert not small["intruder"].any()


def test_a_planted_magnitude_leaves_the_direction(generator) -> None:
    base = generator.standard_normal((20, 30))
    scale = np.exp(generator.standard_normal(20))[:, None]
    (row,) = matrices.magnitude_direction(one(base * (scale - 1), base)).to_dict("records")
    lengths = np.linalg.norm(base, axis=1)
    assert row["magnitude"] == pytest.approx(np.mean(np.abs(scale[:, 0] - 1) * lengths))
    assert row["direction"] == pytest.approx(0, abs=1e-15)


def test_a_planted_rotation_of_each_row_leaves_the_magnitude(generator) -> None:
    base = generator.standard_normal((20, 30))
    angle = generator.uniform(1e-4, 1.0, (20, 1))
    aside = generator.standard_normal((20, 30))
    aside -= base * (aside * base).sum(axis=1, keepdims=True) / (base**2).sum(axis=1, keepdims=True)
    aside *= np.linalg.norm(base, axis=1, keepdims=True) / np.linalg.norm(
        aside, axis=1, keepdims=True
    )
    turned = np.cos(angle) * base + np.sin(angle) * aside
    (row,) = matrices.magnitude_direction(one(turned - base, base)).to_dict("records")
    assert row["magnitude"] == pytest.approx(0, abs=1e-12)
    assert row["direction"] == pytest.approx(np.mean(1 - np.cos(angle)))


def points(generator: np.random.Generator, rho: float, layers: int, each: int) -> pd.DataFrame:
    """Points of a known correlation, equal within a layer."""
    pairs = generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=layers)
    frame = pd.DataFrame(pairs, columns=["direction", "magnitude"]).assign(layer=range(layers))
    frame = pd.concat([frame] * each, ignore_index=True)
    return frame.assign(method="x", matrix="query")


def test_a_planted_correlation_lies_in_its_interval(generator) -> None:
    for rho in (-0.6, 0.0, 0.8):
        (row,) = matrices.correlations(points(generator, rho, 400, 1), generator).to_dict("records")
        assert row["low"] < rho < row["high"] and row["high"] - row["low"] < 0.25
        assert row["low"] < row["correlation"] < row["high"]
        assert (row["method"], row["matrix"], row["layers"]) == ("x", "query", 400)


def test_more_points_of_the_same_layers_make_no_narrower_interval() -> None:
    once, often = (
        matrices.correlations(
            points(np.random.default_rng(1), 0.5, 12, each), np.random.default_rng(2)
        ).iloc[0]
        for each in (1, 4)
    )
    assert often["points"] == 4 * once["points"]
    for key in ("correlation", "low", "high"):
        assert often[key] == pytest.approx(once[key])


def test_one_layer_has_no_interval(generator) -> None:
    with pytest.raises(ValueError, match="has 1 layers, and an interval needs at least 2"):
        matrices.correlations(points(generator, 0.5, 1, 4), generator)


def test_draws_of_one_point_and_changes_of_nothing_are_no_correlation(generator) -> None:
    table = points(generator, 0.5, 3, 1)
    head = table.assign(layer=None, matrix="query")  # of no layer: does not count
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        (row,) = matrices.correlations(pd.concat([table, head]), generator).to_dict("records")
        still = table.assign(magnitude=0.0, direction=0.0)
        (none,) = matrices.correlations(still, generator).to_dict("records")
    assert -1 <= row["low"] <= row["correlation"] <= row["high"] <= 1 and row["points"] == 3
    assert np.isnan([none["correlation"], none["low"], none["high"]]).all()


def test_where_nothing_changed_there_are_no_subspaces() -> None:
    still = Change(np.eye(4), (np.zeros((4, 0)), np.zeros((0, 4))))
    with pytest.raises(ValueError, match="one of the two changed nothing"):
        matrices.similarity({"a": still}, {"a": still})


def test_a_change_of_full_rank_is_amplified_along_a_rank_or_not_at_all(generator) -> None:
    dense = {"layer.0.query": Change(np.eye(4), generator.standard_normal((4, 4)))}
    assert np.isnan(matrices.amplification(dense)["factor"].item())
    assert matrices.amplification(dense, rank=2)["factor"].item() > 0


# Runs and files.


def full(change: Change) -> ndarray:
    return change.base + change.delta


@pytest.fixture(scope="module")
def folders(tiny_run: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a finished run of each method on a tiny model."""
    known: dict[tuple[str, str], Path] = {}

    def folder(variant: str, family: str = "roberta") -> Path:
        if (variant, family) not in known:
            known[variant, family] = tmp_path_factory.mktemp(variant)
            lr = [] if variant == "head_only" else ["variant.lr=0.02"]
            run = tiny_run(variant, "record.snapshots=6", *lr, family=family)
            execute(run, known[variant, family])
        return known[variant, family]

    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_base_and_delta_are_the_merged_weight(folders: Callable, variant: str) -> None:
    found = geometry.changes(folders(variant))
    backbone = restore(folders(variant)).loaded.model.backbone
    merged = {name: layer.merged_weight() for name, layer in adapter_layers(backbone)}
    for name, change in found.items():
        weight = merged.get(name, getattr(backbone.get_submodule(name), "weight", None))
        assert_allclose(full(change), weight.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert set(merged) <= set(found) and len(found) >= 4
    still = {"bitfit", "head_only"}
    assert (matrices.sizes(found)["frobenius"] > 1e-3).any() == (variant not in still)
    assert not matrices.sizes(found)["relative"].isna().any()


@pytest.mark.parametrize("variant", ["lora", "full"])
def test_a_change_is_not_rounded_to_a_base_in_bfloat16(
    tiny_run: Callable, tmp_path: Path, variant: str
) -> None:
    execute(tiny_run(variant, "train.precision=bf16", "variant.lr=0.001"), tmp_path)
    backbone = restore(tmp_path).loaded.model.backbone
    merged = {name: layer.merged_weight() for name, layer in adapter_layers(backbone)}
    for name, change in geometry.changes(tmp_path).items():
        weight = merged.get(name, getattr(backbone.get_submodule(name), "weight", None))
        assert weight.dtype == torch.float32
        assert_allclose(full(change), weight.detach().numpy(), rtol=1e-5, atol=1e-6)
        assert np.array_equal(change.base, torch.tensor(change.base).bfloat16().double().numpy())


@pytest.mark.parametrize("variant", ["delta_lora", "full", "lora_drop"])
def test_the_last_snapshot_is_the_end_and_the_first_is_not(folders: Callable, variant: str) -> None:
    parts = dict(geometry.checkpoints(folders(variant)))
    assert list(parts) == [1, 2, 3, 4, 5, 6]
    end = geometry.changes(folders(variant))
    for name, change in end.items():
        assert_allclose(parts[6][name].delta, change.delta, atol=1e-7)
    assert any(not np.allclose(parts[1][name].delta, end[name].delta) for name in end)
    table = geometry.movement(folders(variant))
    assert len(table) == 6 * len(end) and sorted(table["step"].unique()) == list(parts)
    (first,) = table[(table["step"] == 6) & (table["name"] == next(iter(end)))].to_dict("records")
    expected = matrices.magnitude_direction({first["name"]: end[first["name"]]}).iloc[0]
    assert first["direction"] == pytest.approx(expected["direction"], rel=1e-4)


def test_thin_factors_are_kept_where_a_method_has_them(folders: Callable) -> None:
    for variant, rank in (("lora", 8), ("adalora", 12), ("pissa", 16)):
        found = geometry.changes(folders(variant))
        assert all(change.update[0].shape[1] == rank for change in found.values()), variant
    assert all(isinstance(c.update, ndarray) for c in geometry.changes(folders("dora")).values())


def test_last_k_changes_its_blocks_only(folders: Callable) -> None:
    table = matrices.sizes(geometry.changes(folders("last_k")))
    assert sorted(table["layer"].unique()) == [0, 1]  # the tiny model has two, and k is 2
    assert (table["frobenius"] > 0).all()


@pytest.mark.parametrize("variant", ["lora", "adalora", "delta_lora"])
def test_a_folder_of_pefts_has_the_same_changes(
    folders: Callable, tmp_path: Path, variant: str
) -> None:
    write_peft(read_adapter(folders(variant)), tmp_path / "peft")
    ours, theirs = geometry.changes(folders(variant)), geometry.changes(tmp_path / "peft")
    assert list(ours) == list(theirs)
    for name, change in ours.items():
        assert theirs[name].W0 is None
        assert_allclose(theirs[name].delta, change.delta, rtol=1e-5, atol=1e-7)


def test_a_foreign_dora_or_vera_needs_its_base(folders: Callable, tmp_path: Path) -> None:
    for variant in ("dora", "vera"):
        write_peft(read_adapter(folders(variant)), tmp_path / variant)
        with pytest.raises(ValueError, match="whose change is more than factors"):
            geometry.changes(tmp_path / variant)


def test_a_file_of_loralibs_is_its_factors_times_alpha_over_rank(
    tmp_path: Path, generator: np.random.Generator
) -> None:
    A, B = torch.randn(2, 6), torch.randn(4, 2)
    stored = {f"roberta.{NAME}.lora_A": A, f"roberta.{NAME}.lora_B": B}
    torch.save(stored | {"classifier.weight": A}, tmp_path / "lora.bin")
    found = geometry.changes(tmp_path / "lora.bin", alpha=16)
    assert list(found) == [NAME]
    assert_allclose(found[NAME].delta, 8 * (B @ A).numpy(), rtol=1e-6)


def test_a_fused_projection_of_loralibs_is_split(tmp_path: Path) -> None:
    A, B = torch.randn(4, 6), torch.randn(10, 2)
    name = "transformer.h.1.attn.c_attn"
    torch.save({f"{name}.lora_A": A, f"{name}.lora_B": B}, tmp_path / "lora.bin")
    found = geometry.changes(tmp_path / "lora.bin", alpha=2)
    assert list(found) == ["h.1.attn.c_attn.q", "h.1.attn.c_attn.v"]
    assert_allclose(found["h.1.attn.c_attn.v"].delta, (B[5:] @ A[2:]).numpy(), rtol=1e-5)


def test_where_there_is_no_adapter_it_is_said(folders: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no adapter"):
        geometry.changes(tmp_path)
    with pytest.raises(ValueError, match="is for loralib's files"):
        geometry.changes(folders("lora"), alpha=16)
    torch.save({"a.lora_A": torch.ones(1, 2)}, tmp_path / "half.bin")
    with pytest.raises(ValueError, match="give --alpha"):
        geometry.changes(tmp_path / "half.bin")
    with pytest.raises(ValueError, match="lacks a factor of a: it has lora_A only"):
        geometry.changes(tmp_path / "half.bin", alpha=1)
    torch.save({"a.weight": torch.ones(1, 2)}, tmp_path / "none.bin")
    with pytest.raises(ValueError, match="holds no factors"):
        geometry.changes(tmp_path / "none.bin", alpha=1)
    (folders("head_only") / "snapshots").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"record\.snapshots=4 keeps four"):
        next(geometry.checkpoints(folders("head_only")))


def test_the_command_prints_and_writes(
    folders: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["geometry", str(folders("lora")), "--against", str(folders("pissa"))]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(tmp_path / "out")])
    geometry.main()
    told = capsys.readouterr().out
    assert "query" in told and "effective_rank" in told and "intruders" in told
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"sizes.csv", "spectra.png", "movement.pdf", "similarity.png"} <= written
    sizes = pd.read_csv(tmp_path / "out" / "sizes.csv")
    assert len(sizes) == 4 and sizes["rank"].max() <= 8


def test_several_runs_are_compared_by_method(
    folders: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["geometry", str(folders("lora")), str(folders("dora")), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    geometry.main()
    assert "correlation" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "correlations.csv").set_index(["method", "matrix"])
    assert {("lora", "query"), ("lora", "value"), ("dora", "query")} <= set(found.index)
    assert found["correlation"].between(-1, 1).all() and (found["low"] <= found["high"]).all()
    assert (found["points"] == 6 * found["layers"]).all()
    assert (tmp_path / "movement-query.png").is_file()


def test_a_published_lora_of_roberta_base_has_full_rank_in_all_24_matrices() -> None:
    path = SHARED / "roberta_base_lora_mnli.bin"
    if not path.is_file():
        pytest.skip("the published adapter is not here")
    table = matrices.sizes(geometry.changes(path, alpha=16))
    assert table.groupby("matrix")["layer"].apply(list).to_dict() == {
        "query": list(range(12)), "value": list(range(12)),
    }  # fmt: skip
    assert (table["rank"] == 8).all()
    half = matrices.sizes(geometry.changes(path, alpha=8))
    assert_allclose(table["frobenius"], 2 * half["frobenius"])
    assert_allclose(table["effective_rank"], half["effective_rank"])
