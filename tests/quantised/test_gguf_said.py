"""What the header of a GGUF file says of positions and tokenizers, and models that it has no words for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.gguf_file import read_gguf
from ..support.refusals import refusal
from .test_encode_gguf import FF, HIDDEN, TO, VOCAB, model, weights

SLIDING, FULL = "sliding_attention", "full_attention"
LAYERS = [SLIDING, SLIDING]
#: What Gemma 3 is as it was published, at two layers.
GEMMA: dict[str, Any] = {"model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}
BOTH = {SLIDING: {"rope_type": "default", "rope_theta": 1e4}, FULL: {"rope_type": "default", "rope_theta": 1e6}}


def header(folder: Path, **more: Any) -> dict[str, Any]:
    """What is said of a model with such a config."""
    model(folder / "m", weights(1), **more)
    suture.convert(folder / "m", folder / "out", settings=TO)
    said, _ = read_gguf(folder / "out" / "model.gguf")
    return said


@pytest.mark.parametrize(
    ("config", "base", "factor"),
    [
        ({"rope_parameters": BOTH, "rope_theta": None}, 1e6, None),
        ({"rope_parameters": BOTH | {FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}}, 1e6, 8),
        (
            {"rope_theta": 5e5, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 4}},
            5e5,
            4,
        ),
        ({"rope_theta": None}, 1e6, None),
    ],
)
def test_positions_of_layers_that_see_everything(
    config: dict[str, Any], base: float, factor: float | None, tmp_path: Path
) -> None:
    """Gemma 3 scales positions for each kind of layers: what a GGUF file says is of those that see everything."""
    said = header(tmp_path, **GEMMA, **config)
    assert said["gemma3.rope.freq_base"] == base
    assert said.get("gemma3.rope.scaling.factor") == factor
    assert said["gemma3.attention.key_length"] == 16


UNSAID: dict[str, tuple[dict[str, Any], str]] = {
    "local base": (GEMMA | {"rope_parameters": BOTH | {SLIDING: {"rope_theta": 500.0}}}, "rope_local_base_freq"),
    "local base, old": (GEMMA | {"rope_local_base_freq": 500.0}, "rope_local_base_freq"),
    "local scaling": (
        GEMMA | {"rope_parameters": BOTH | {SLIDING: {"rope_type": "linear", "factor": 2}}},
        "sliding_attention.rope_type",
    ),
    "layers": (GEMMA | {"layer_types": [FULL, SLIDING]}, "layer_types"),
    "pattern": (GEMMA | {"sliding_window_pattern": 4}, "sliding_window_pattern"),
    "queries": (GEMMA | {"query_pre_attn_scalar": 24}, "query_pre_attn_scalar"),
    "both ways": (GEMMA | {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "activation": (GEMMA | {"hidden_activation": "relu"}, "hidden_activation"),
    "capped": (GEMMA | {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "uncapped": (GEMMA | {"model_type": "gemma2", "final_logit_softcapping": None}, "final_logit_softcapping"),
    "silu": ({"hidden_act": "gelu"}, "hidden_act"),
    "half turned": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "yarn": (
        {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "beta_fast": 16}},
        "yarn",
    ),
    "no number": ({"rope_theta": "ten"}, "ten"),
    "no size": ({"intermediate_size": [4]}, "intermediate_size"),
    "a window": ({"sliding_window": -1}, "mend it"),
}


@pytest.mark.parametrize("name", UNSAID)
def test_what_no_key_says_is_refused(name: str, tmp_path: Path) -> None:
    """Readers compute such a model otherwise than its config says: it is refused by the key, nothing is written."""
    config, key = UNSAID[name]
    model(tmp_path / "m", weights(1), **config)
    message = refusal(suture.convert, tmp_path / "m", tmp_path / "out", settings=TO)
    assert message is not None
    assert key in message
    assert not (tmp_path / "out").exists()


def test_what_readers_take_for_granted_is_written(tmp_path: Path) -> None:
    """The same keys with the values of the published models change nothing."""
    usual = {"layer_types": LAYERS, "_sliding_window_pattern": 6, "hidden_activation": "gelu_pytorch_tanh"}
    usual |= {"use_bidirectional_attention": False, "rope_parameters": BOTH, "attn_logit_softcapping": None}
    assert header(tmp_path, **GEMMA, **usual)["gemma3.attention.sliding_window"] == 8
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1}
    yarn |= {"attention_factor": 1.1386294361119891}
    said = header(tmp_path / "y", rope_scaling=yarn, hidden_act="silu", partial_rotary_factor=1.0)
    assert said["llama.rope.scaling.type"] == "yarn"
    gemma = GEMMA | {"model_type": "gemma2"}
    assert header(tmp_path / "g", **gemma)["gemma2.final_logit_softcapping"] == 30


def tokenizer(**more: Any) -> dict[str, Any]:
    """A byte-level tokenizer of a few tokens, the first two of them special."""
    added = [{"id": i, "content": t, "special": True} for i, t in enumerate(["<s>", "</s>"])]
    vocab = {"<s>": 0, "</s>": 1} | {chr(97 + i): i + 2 for i in range(8)}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return {
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
        "added_tokens": added,
        "pre_tokenizer": bytes_,
    } | more


def told(folder: Path, whole: dict[str, Any], beside: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """What is said of a Llama with this tokenizer, and of what was warned."""
    model(folder / "m", weights(1))
    (folder / "m" / "tokenizer.json").write_text(json.dumps(whole))
    own = {"bos_token": "<s>", "eos_token": "</s>"} | (beside or {})
    (folder / "m" / "tokenizer_config.json").write_text(json.dumps(own))
    report = suture.convert(folder / "m", folder / "out", settings=TO)
    return read_gguf(folder / "out" / "model.gguf")[0], [w for w in report.warnings if "tokens" in w]


def test_tokens_without_a_row_are_left_out(tmp_path: Path) -> None:
    """There are as many tokens as rows: readers refuse a file with more."""
    whole = tokenizer()
    whole["added_tokens"].append({"id": VOCAB + 3, "content": "<image>", "special": True})
    said, warned = told(tmp_path, whole)
    assert len(said["tokenizer.ggml.tokens"]) == VOCAB
    assert "<image>" not in said["tokenizer.ggml.tokens"]
    assert any("1 tokens" in w for w in warned)


@pytest.mark.parametrize(
    ("flag", "template", "wanted"), [(None, True, True), (None, False, False), (False, True, False)]
)
def test_what_is_put_before_a_text_is_said(flag: bool | None, template: bool, wanted: bool, tmp_path: Path) -> None:
    """Where a flag does not say it the template does; it is always said, since readers of each kind differ."""
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    after = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}
    whole = tokenizer(post_processor={"type": "Sequence", "processors": [after]} if template else None)
    said, _ = told(tmp_path, whole, {} if flag is None else {"add_bos_token": flag})
    assert said["tokenizer.ggml.add_bos_token"] is wanted
    assert said["tokenizer.ggml.add_eos_token"] is False
    if template:
        (tmp_path / "bare").mkdir()
        said, _ = told(tmp_path / "bare", whole, {"bos_token": None})
        assert said["tokenizer.ggml.add_bos_token"] is True
        assert said["tokenizer.ggml.tokens"][said["tokenizer.ggml.bos_token_id"]] == "<s>"
        (tmp_path / "other").mkdir()
        assert "`<s>`" in (refusal(told, tmp_path / "other", whole, {"bos_token": "</s>"}) or "")


def test_several_chat_templates(tmp_path: Path) -> None:
    """The one that is called default is the chat template, the others stand beside it under their names."""
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "talk"}]
    said, _ = told(tmp_path, tokenizer(), {"chat_template": templates})
    assert said["tokenizer.chat_template"] == "talk"
    assert said["tokenizer.chat_templates"] == ["tool_use"]
    assert said["tokenizer.chat_template.tool_use"] == "tools"


LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(("whole_words", "wanted"), [(True, "llama-bpe"), (False, "smaug-bpe")])
def test_words_that_are_tokens(whole_words: bool, wanted: str, tmp_path: Path) -> None:
    """Readers take a word that is a token for it, whatever merges are, by the name of the way to split: of two ways
    with one expression the one that does what the tokenizer does; it is read again as such."""
    split = {"type": "Split", "pattern": {"Regex": LLAMA}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    whole = tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, bytes_]})
    whole["model"]["ignore_merges"] = whole_words
    assert told(tmp_path, whole)[0]["tokenizer.ggml.pre"] == wanted
    (tmp_path / "only").mkdir()
    (tmp_path / "out" / "model.gguf").rename(tmp_path / "only" / "model.gguf")
    suture.convert(tmp_path / "only" / "model.gguf", tmp_path / "back")
    again = json.loads((tmp_path / "back" / "tokenizer.json").read_text())
    assert again["model"]["ignore_merges"] is whole_words
    assert again["pre_tokenizer"]["pretokenizers"][0] == split


@pytest.mark.parametrize(
    "more",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"added_tokens": [{"id": -3, "content": "<s>"}]},
        {"added_tokens": [{"id": "ten", "content": "<s>"}]},
        {"added_tokens": [{"content": "<s>"}]},
    ],
)
def test_tokenizers_without_a_word_for_them_are_refused(more: dict[str, Any], tmp_path: Path) -> None:
    """What would be segmented otherwise, or makes no sense, is refused in words."""
    message = refusal(told, tmp_path, tokenizer(**more))
    assert message is not None
    assert "tokenizer" in message


def test_biases_are_said_again(tmp_path: Path) -> None:
    """A config that is rebuilt says the biases that the file has: without it loaders leave them out."""
    own = weights(1)
    sides = {"mlp.gate_proj": FF, "mlp.up_proj": FF, "mlp.down_proj": HIDDEN, "self_attn.o_proj": HIDDEN}
    own |= {f"model.layers.{i}.{n}.bias": np.ones(s, np.float32) for i in range(2) for n, s in sides.items()}
    model(tmp_path / "m", own)
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(tokenizer()))
    suture.convert(tmp_path / "m", tmp_path / "out", settings=TO)
    suture.convert(tmp_path / "out" / "model.gguf", tmp_path / "back")
    said = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (said["attention_bias"], said["mlp_bias"]) == (True, True)
    model(tmp_path / "mistral", own, sliding_window=8)
    (tmp_path / "mistral" / "tokenizer.json").write_text(json.dumps(tokenizer()))
    suture.convert(tmp_path / "mistral", tmp_path / "q", settings=TO)
    message = refusal(suture.convert, tmp_path / "q" / "model.gguf", tmp_path / "no")
    assert message is not None
    assert "`mlp_bias`" in message
