"""The card that is saved with a checkpoint: no fact, what it led to, the licence of the model before."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from ssiuu.records.schema import MethodInfo, ModelInfo, Outcome, Unlearning
from ssiuu.report.card import CARD, card_head, model_card

MODEL = ModelInfo(
    name="/home/me/secret/my-model", source="folder", fingerprint="f", parameters=135_000_000, layers=2
)
OUTCOME = Outcome(
    state="forgotten", forget=0.25, threshold=1 / 3, answered=0.0, facts=5, kept=0.9, kept_of=20,
    said=0.8, said_of=10, set_aside=True, kl=0.02, kl_instructions=0.03, max_kl=0.1, min_retain=0.8,
)  # fmt: skip


def unlearned(outcome: Outcome | None = OUTCOME) -> Unlearning:
    method = MethodInfo(
        name="npo", label="npo+kl", description="lowers the answer", origin="literature"
    )
    return Unlearning.model_construct(
        method=method, seed=3, steps=[], outcome=outcome, stopped="threshold", notes=[]
    )


def card(before: dict[str, object] | None = None, hub: str = "", model: ModelInfo = MODEL) -> str:
    return model_card(unlearned(), model, hub, "1.2", before or {})


def test_it_says_what_was_done_and_what_is_not_known() -> None:
    text = card()
    assert "# my-model, made to forget 5 facts" in text and "method `npo+kl`" in text
    assert "kept 90% of 20 facts to keep (set aside)" in text and "not audited" in text
    assert "may only be hidden" in text and "/home/me" not in text and "secret" not in text


@pytest.mark.parametrize("state", ["not forgotten", "forgotten at a cost"])
def test_what_is_not_forgotten_is_said_first_and_as_a_tag(state: str) -> None:
    outcome = OUTCOME.model_copy(update={"state": state, "reasons": ["it answers"]})
    text = model_card(unlearned(outcome), MODEL, "", "1.2", {})
    assert f"# my-model, {state}: 5 facts\n\n**This model " in text and "made to forget 5" not in text
    assert "not-forgotten" in ModelCard(text).data.tags and f"- {state}: it answers" in text
    assert "not-forgotten" not in card() and "**" not in card()


def test_its_head_is_read_by_the_hub_s_own_reader_and_names_base_and_licence() -> None:
    data = ModelCard(card({"license": "llama3.2", "language": ["ja"]}, "meta/llama")).data
    assert (data.license, data.base_model, data.language) == ("llama3.2", "meta/llama", ["ja"])
    assert data.to_dict()["library_name"] == "transformers" and "machine-unlearning" in data.tags


def test_without_a_licence_none_is_made_up() -> None:
    text = card()
    assert "license:" not in text and "none that could be carried over" in text


def test_what_was_dequantised_is_said() -> None:
    assert "of a 4-bit copy" in card(model=MODEL.model_copy(update={"note": "of a 4-bit copy"}))


@pytest.mark.parametrize(
    "text", ["", "no head", "---\nlicense: [\n---\n", "---\n- a\n---\nx", "---\n&a *a\n---\n"]
)
def test_a_card_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD).write_text(text)
    assert card_head(tmp_path / CARD) == {} == card_head(tmp_path / "none")


def test_the_head_of_a_card_is_read(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text(card({"license": "mit"}, "a/b"))
    assert card_head(tmp_path / CARD)["license"] == "mit"


def test_an_adapter_says_that_it_is_one_and_how_it_is_loaded() -> None:
    text = model_card(unlearned(), MODEL, "meta/llama", "1.2", {}, adapter=True)
    assert "An adapter of `meta/llama`" in text and "AutoPeftModelForCausalLM" in text
    assert ModelCard(text).data.to_dict()["library_name"] == "peft" and "may only be hidden" in text
