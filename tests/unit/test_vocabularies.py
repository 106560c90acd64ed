"""`tokenizer_source`, `tokenizer` and `chat_template`: files of models of one vocabulary; others are in tests/vocab."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.sidecars.template import NAMED

from ..support.checkpoints import llama_family

Config = dict[str, Any]
VOCAB = 16


def tokenizer(folder: Path, tokens: dict[str, int] | None = None, **config: Any) -> None:
    """A tokenizer beside a model: its vocabulary, and what tokenizer_config.json says."""
    tokens = {f"t{i}": i for i in range(VOCAB)} if tokens is None else tokens
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": tokens, "merges": []}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "X", **config}))


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    made = llama_family(tmp_path / "models", layers=2, n=3, hidden=8, heads=2, kv_heads=1, ff=8, vocab=VOCAB)
    for i, folder in enumerate(made):
        tokenizer(folder, mark=i)
    return made


def merge(models: list[Path], out: Path, form: str = "models", **more: Any) -> suture.Report:
    listed = [{"model": str(m), "parameters": {"weight": 1}} for m in models]
    parts: Config = {"models": listed}
    if form == "slices":
        parts = {"slices": [{"sources": [{**m, "layer_range": [0, 2]} for m in listed]}]}
    elif form == "modules":
        parts = {"modules": {"default": parts}}
    elif form == "outputs":
        return suture.merge({"merge_method": "linear", **parts, **more, "outputs": {"a": {}}}, out).parts["a"]
    return suture.merge({"merge_method": "linear", **parts, **more}, out)


def mark(out: Path) -> int:
    """Whose tokenizer an output has."""
    return int(json.loads((out / "tokenizer_config.json").read_text())["mark"])


FORMS = ["models", "slices", "modules", "outputs"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", ["tokenizer_source", "tokenizer"])
def test_of_one_vocabulary_any_tokenizer_is_that_of_the_merge(
    form: str, key: str, models: list[Path], tmp_path: Path
) -> None:
    """A model's, the base's, or with `union` that of the model that lends the config: files are copied, and told."""
    named = str(models[2])
    for i, (source, wanted) in enumerate((("union", 0), (named, 2), ("base", 1))):
        out = tmp_path / f"out-{i}"
        more: Config = {key: source if key == "tokenizer_source" else {"source": source}}
        more |= {"base_model": str(models[1])} if source == "base" else {}
        report = merge(models, out, form, **more)
        assert mark(out / "a" if form == "outputs" else out) == wanted
        assert not any("vocabulary" in w for w in report.warnings)
        record = json.loads(((out / "a" if form == "outputs" else out) / "suture.json").read_text())
        assert any("all models have the vocabulary" in text for _, text in record["notes"])
        assert str(tmp_path) not in json.dumps(record["recipe"])
    assert mark_of(merge(models, tmp_path / "empty", form, tokenizer={}), form, tmp_path / "empty") == 0


def mark_of(report: suture.Report, form: str, out: Path) -> int:
    assert report.data["title"] == "merge linear"
    return mark(out / "a" if form == "outputs" else out)


def test_a_model_that_is_not_merged_can_lend_its_tokenizer(models: list[Path], tmp_path: Path) -> None:
    """If its vocabulary is theirs."""
    merge(models[:2], tmp_path / "out", tokenizer_source=str(models[3]))
    assert mark(tmp_path / "out") == 3


def test_a_document_can_lend_its_tokenizer(models: list[Path], tmp_path: Path) -> None:
    """By its name, before it is made; a dry run says the same."""
    path = tmp_path / "c.yml"
    parts = [{"model": str(m), "parameters": {"weight": 1}} for m in models[:2]]
    made = {"name": "made", "merge_method": "linear", "models": parts[:2], "base_model": str(models[1])}
    last = {
        "merge_method": "linear",
        "models": [{**parts[0]}, {**parts[1], "model": "made"}],
        "tokenizer_source": "made",
    }
    path.write_text(f"{json.dumps(made)}\n---\n{json.dumps(last)}\n")
    suture.merge(path, tmp_path / "out", dry_run=True)
    suture.merge(path, tmp_path / "out")
    assert mark(tmp_path / "out") == 1


@pytest.mark.parametrize("which", ["none", "cannot be read"])
@pytest.mark.parametrize("source", ["union", "base"])
def test_a_vocabulary_that_cannot_be_known_is_refused(
    which: str, source: str, models: list[Path], tmp_path: Path
) -> None:
    """Rows would be other words; nothing is written, and the model is named."""
    if which == "none":
        (models[1] / "tokenizer.json").unlink()
    else:
        (models[1] / "tokenizer.json").write_text("{")
    listed = [{"model": str(m), "parameters": {"weight": 1}} for m in models[:2]]
    config = {"merge_method": "linear", "tokenizer": {"source": source}, "models": listed}
    for dry in (True, False):
        with pytest.raises(suture.SutureError, match=re.escape(str(models[1]))):
            suture.merge(config, tmp_path / "out", dry_run=dry)
    assert not (tmp_path / "out").exists()
    # Without that key models are merged row by row, and it is told.
    merge(models[:2], tmp_path / "plain")


def test_equal_words_in_other_files_are_one_vocabulary(models: list[Path], tmp_path: Path) -> None:
    """What counts is which token a number is."""
    text = (models[1] / "tokenizer.json").read_text()
    (models[1] / "tokenizer.json").write_text(json.dumps(json.loads(text), indent=4))
    merge(models[:2], tmp_path / "out", tokenizer={})


def templates(out: Path) -> tuple[str | None, str | None]:
    """The chat template in tokenizer_config.json, and that in a file of its own."""
    file = out / "chat_template.jinja"
    said = json.loads((out / "tokenizer_config.json").read_text()).get("chat_template")
    return said, file.read_text() if file.is_file() else None


JINJA = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*NAMED, JINJA])
def test_a_template_is_written_where_the_tokenizer_has_its_own(
    name: str, form: str, models: list[Path], tmp_path: Path
) -> None:
    """In tokenizer_config.json, whose other keys stay, or in chat_template.jinja."""
    text = NAMED.get(name, name)
    merge(models, tmp_path / "out", form, chat_template=name)
    out = tmp_path / "out" / "a" if form == "outputs" else tmp_path / "out"
    assert templates(out) == (text, None)
    assert mark(out) == 0
    (models[0] / "chat_template.jinja").write_text("old")
    merge(models, tmp_path / "file", form, chat_template=name)
    assert templates(tmp_path / "file" / "a" if form == "outputs" else tmp_path / "file") == (None, text)
    assert suture.verify(out)["files"] == []


def test_auto_takes_the_one_that_most_models_have(models: list[Path], tmp_path: Path) -> None:
    """Of equals the base's, else the first model's; a list of named ones counts by its default."""
    one, two = "{% for m in messages %}1{% endfor %}", "{% for m in messages %}2{% endfor %}"

    def made(*texts: Any, **more: Any) -> str | None:
        for i, (folder, text) in enumerate(zip(models, texts, strict=True)):
            tokenizer(folder, mark=i, **({} if text is None else {"chat_template": text}))
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        merge(models, out, chat_template="auto", **more)
        return templates(out)[0]

    assert made(one, two, two, None) == two
    assert made(one, two, two, one) == one
    assert made(one, two, two, one, base_model=str(models[1])) == two
    assert made(one, [{"name": "tool", "template": "x"}, {"name": "default", "template": two}], two, None) == two
    assert made(None, None, None, None) is None


@pytest.mark.parametrize("wanted", ["vicuna", "{% x %}", "{% for m in messages %}{{ m['content'] }", 7, ""])
def test_what_is_no_template_is_refused(wanted: Any, models: list[Path], tmp_path: Path) -> None:
    """A name that there is none of, with those there are; Jinja with a tag that is not closed."""
    with pytest.raises(suture.UsageError, match="chat_template"):
        merge(models, tmp_path / "out", chat_template=wanted)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["tokenizer", "tokenizer_source", "chat_template"])
def test_a_single_file_has_no_tokenizer(key: str, models: list[Path], tmp_path: Path) -> None:
    """What would be lost without a word is refused."""
    asked: Config = {key: {} if key == "tokenizer" else "base"}
    with pytest.raises(suture.UsageError, match=rf"^{key}: the output is a single file"):
        merge(models, tmp_path / "out.safetensors", **asked)
    assert not list(tmp_path.glob("out*"))


TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": " 2+2 "},
]
SYSTEM = {"role": "system", "content": "Be brief."}
#: As the models of these formats publish it.
RENDERED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\n 2+2 <|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2+2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "exaone": (
        "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Yes?[|endofturn|]\n[|user|] 2+2 \n[|assistant|]"
    ),
    "alpaca": (
        "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\nYes?</s>\n\n### Instruction:\n 2+2 \n\n### Response:\n"
    ),
}


@pytest.mark.parametrize("name", RENDERED)
def test_named_templates_give_the_text_of_their_formats(name: str) -> None:
    """Rendered as transformers renders them: blocks trimmed, their lines stripped."""
    jinja2 = pytest.importorskip("jinja2")
    made = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(NAMED[name])
    text = made.render(messages=[SYSTEM, *TALK], add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
    assert text == RENDERED[name]


def test_tokens_that_only_the_template_has_are_told(models: list[Path], tmp_path: Path) -> None:
    """A template that writes what the output's tokenizer does not have is taken, and told of; in a swap, too."""
    report = merge(models, tmp_path / "out", chat_template="chatml")
    assert any("`<|im_start|>`, `<|im_end|>` in it are no tokens" in w for w in report.warnings)
    swapped = suture.swap(models[0], models[1], tmp_path / "swap", layers="0", chat_template="llama3")
    assert any("`<|eot_id|>`" in w for w in swapped.warnings)
    for i, folder in enumerate(models):
        tokenizer(folder, {f"t{n}": n for n in range(14)} | {"<|im_start|>": 14, "<|im_end|>": 15}, mark=i)
    assert not any("template" in w for w in merge(models, tmp_path / "has", chat_template="chatml").warnings)
