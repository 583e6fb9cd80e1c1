"""PEFT's folders of every method that has a form there, written and read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import keep, logits, trained
from peft_files import CLOSE, of_peft, outputs

from experiments.adapters import saved
from experiments.adapters.peft_format import read_peft, write_peft

pytestmark = pytest.mark.thorough

AS_LORA = ["pissa", "milora", "olora", "lora_xs", "eva", "corda", "lora_ga", "lora_one"]
AS_LORA += ["riemannian", "lora_pro", "lora_rite", "abba", "dylora", "sora"]
OWN = ["ia3", "hira", "loha", "lokr", "miss", "road", "delora", "hra", "oft", "fourierft"]
OWN += ["randlora", "vb_lora", "shira", "gralora", "waveft"]
# PEFT writes the shared bases once more for every layer, and misses the copies.
COPIES = pytest.mark.filterwarnings("ignore:Found missing adapter keys")
NONE = ["mora", "svft", "qdora", "loftq"]


@pytest.mark.filterwarnings("error:Found missing adapter keys")
@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=[COPIES] * (v == "randlora")) for v in [*AS_LORA, *OWN]]
)
def test_peft_gives_the_same_outputs_and_the_way_back_too(
    case: Callable, tiny: Callable[[str], Path], tmp_path: Path, variant: str
) -> None:
    made = trained(case, variant, "roberta")
    adapter = saved.read_adapter(keep(made, tmp_path / "ours"))
    write_peft(adapter, tmp_path / "peft")
    theirs = of_peft(tmp_path / "peft", tiny("roberta"))
    torch.testing.assert_close(outputs(theirs, made, "roberta"), logits(made), **CLOSE)
    back = read_peft(tmp_path / "peft", made.run.model)
    saved.write(back, tmp_path / "back")
    model = saved.load(saved.read_adapter(tmp_path / "back")).model
    with torch.no_grad():
        torch.testing.assert_close(model(made.batch), logits(made), **CLOSE)
    assert (type(back.variant) is type(adapter.variant)) == (variant in OWN)


@pytest.mark.parametrize("variant", [*NONE, "boft"])
def test_what_has_no_form_says_so(case: Callable, tmp_path: Path, variant: str) -> None:
    family = "gpt2" if variant == "boft" else "roberta"  # of its fused projection there is none
    adapter = saved.read_adapter(keep(trained(case, variant, family), tmp_path / "ours"))
    with pytest.raises(ValueError, match=r"merge (it|the adapter) instead"):
        write_peft(adapter, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
