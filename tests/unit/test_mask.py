"""Law: a mask names every parameter of a model once a stage, its patterns match exactly these, and `diff` holds it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

import suture
from suture import Settings, SutureError, UsageError
from suture.analysis.mask import as_bytes
from suture.render.report.sections import sections

from ..support.checkpoints import Raw, llama_family, read_checkpoint, write_checkpoint, write_file


def suture_(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base of twelve layers and a fine-tune."""
    return llama_family(tmp_path_factory.mktemp("models"), layers=12, n=1, hidden=16, ff=24, vocab=12)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with bottlenecks of languages, a buffer, and names as X-MOD has them."""
    names = ["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight", "embeddings.LayerNorm.bias"]
    for i in range(3):
        own = ("attention.self.query.weight", "attention.output.LayerNorm.weight", "intermediate.dense.bias")
        more = [f"output.adapter_modules.{lang}.dense1.weight" for lang in ("sw_KE", "en_XX")]
        names += [f"encoder.layer.{i}.{n}" for n in (*own, *more)]
    tensors: dict[str, Any] = {f"roberta.{n}": np.ones((4, 4), np.float32) for n in [*names, "pooler.dense.weight"]}
    tensors["roberta.embeddings.position_ids"] = np.arange(4, dtype=np.int64)[None]
    return write_checkpoint(tmp_path_factory.mktemp("bert") / "model", tensors, config={"model_type": "xmod"})


def trained(model: Path, *train: str, **more: Any) -> set[str]:
    (stage,) = suture.mask(model, train=list(train) or None, **more)["stages"]
    return set(stage["train"])


def test_every_parameter_is_in_one_list_and_patterns_match_exactly_these(models: list[Path], bert: Path) -> None:
    """Whatever is chosen: both lists are the model, counts are elements, each pattern matches its list alone."""
    for model in (models[0], bert):
        raw = read_checkpoint(model)
        floats = {n for n, r in raw.items() if r.dtype != "I64"}
        for selectors in (["last:2"], ["embeddings", "norms"], ["0-1/attention"], ["re:layer.*1"], ["all"], ["words"]):
            found = suture.mask(model, train=selectors)
            (stage,) = found["stages"]
            assert set(stage["train"]) | set(stage["freeze"]) == floats
            assert len(stage["train"]) + len(stage["freeze"]) == len(floats)
            assert set(found["buffers"]) == set(raw) - floats
            for which in ("train", "freeze"):
                own = stage[which]
                pattern = re.compile(stage[f"{which}_regex"])  # type: ignore[literal-required]
                assert [n for n in raw if pattern.match(n)] == own
                assert not any(pattern.match(n + "x") or pattern.match("x" + n) for n in raw)
                count = sum(int(np.prod(raw[n].shape)) for n in own)
                assert stage[f"{which}_parameters"] == count  # type: ignore[literal-required]


def test_selectors_choose_what_they_say(models: list[Path], bert: Path) -> None:
    """By hand, on a decoder and on an encoder."""
    raw = list(read_checkpoint(models[0]))
    assert trained(models[0], "embeddings") == {"model.embed_tokens.weight"}
    assert trained(models[0], "head") == {"lm_head.weight"}
    last = {n for n in raw if re.search(r"layers\.1[01]\.", n)}
    assert trained(models[0], "last:2") == last == trained(models[0], "10-11")
    assert trained(models[0], "embeddings,last:2") == last | {"model.embed_tokens.weight"}
    assert trained(models[0], "norms") == {n for n in raw if "norm" in n}
    assert trained(models[0], "first:1/mlp") == {n for n in raw if ".layers.0.mlp." in n}
    assert trained(models[0], "1/attention") == {n for n in raw if ".layers.1.self_attn." in n}
    assert trained(models[0], "outside") == {n for n in raw if ".layers." not in n}
    assert trained(models[0], "model.layers.1") == {n for n in raw if ".layers.1." in n}
    assert trained(models[0], r"re:layers\.(1|2)\..*q_proj") == {
        f"model.layers.{i}.self_attn.q_proj.weight" for i in (1, 2)
    }
    assert trained(models[0], freeze=["0-11"]) == {n for n in raw if ".layers." not in n}
    assert trained(models[0], "last:2", freeze=["norms"]) == {n for n in last if "norm" not in n}
    inside = [n for n in read_checkpoint(bert) if "position_ids" not in n]
    assert trained(bert, "words") == {"roberta.embeddings.word_embeddings.weight"}
    assert trained(bert, "embeddings") == {n for n in inside if ".embeddings." in n}
    assert trained(bert, "adapters") == {n for n in inside if "adapter_modules" in n}
    assert trained(bert, "last:1/adapters/re:sw_KE") == {
        "roberta.encoder.layer.2.output.adapter_modules.sw_KE.dense1.weight"
    }
    assert trained(bert, "biases") == {n for n in inside if n.endswith("bias")}
    assert trained(bert, "0/mlp") == {"roberta.encoder.layer.0.intermediate.dense.bias"}
    assert trained(bert, "head") == {"roberta.pooler.dense.weight"}


def test_stages_are_kept_in_their_order(bert: Path, tmp_path: Path) -> None:
    """The three stages of MT4CrossOIE: words alone, all but these, adapters alone; of a file too."""
    three: list[dict[str, Any]] = [{"train": "words"}, {"name": "rest", "freeze": ["words"]}, {"train": ["adapters"]}]
    found = suture.mask(bert, stages=three)
    assert [s["name"] for s in found["stages"]] == ["1", "rest", "3"]
    words, rest, adapters = (set(s["train"]) for s in found["stages"])
    assert not words & rest
    assert words | rest == set(read_checkpoint(bert)) - {"roberta.embeddings.position_ids"}
    assert adapters < rest
    (tmp_path / "three.yml").write_text(json.dumps({"stages": three}))
    done = suture_("mask", bert, tmp_path / "mask.json", "--stages", tmp_path / "three.yml")
    assert done.returncode == 0, done.stderr
    assert "stage rest: trains" in done.stdout
    assert json.loads((tmp_path / "mask.json").read_text()) == json.loads(json.dumps(found))
    assert not [*Draft202012Validator(suture.schema("mask")).iter_errors(found)]
    again = suture_("mask", bert, tmp_path / "mask.json", "--train", "all")
    assert again.returncode == 1
    assert "--overwrite" in again.stderr


MISTAKES = [
    ({"train": ["embedings"]}, "chooses nothing.*did you mean `embeddings`"),
    ({"train": ["last:13"]}, "13 layers of 12"),
    ({"train": ["12"]}, "layer 12 does not exist"),
    ({"train": ["adapters"]}, "`adapters` chooses nothing in .*; expected all"),
    ({"train": ["re:("]}, "no regular expression"),
    ({}, "say what is trained"),
    ({"train": ["norms"], "freeze": ["all"]}, "trains nothing"),
    ({"stages": [{"trian": "all"}]}, "expected a mapping with `train`"),
    ({"stages": [{"name": "a", "train": "all"}, {"name": "a", "train": "all"}]}, "two stages are called `a`"),
    ({"stages": []}, "at least one"),
]


@pytest.mark.parametrize(("asked", "said"), MISTAKES, ids=[s for _, s in MISTAKES])
def test_mistakes_are_refused(models: list[Path], asked: dict[str, Any], said: str) -> None:
    """Law 8: with what was probably meant."""
    with pytest.raises(UsageError, match=said):
        suture.mask(models[0], **asked)


def changed(base: Path, out: Path, *names: str) -> Path:
    """The base with one element of some tensors changed."""
    tensors = dict(read_checkpoint(base))
    for name in names:
        raw = tensors[name]
        tensors[name] = Raw(raw.dtype, raw.shape, bytes([raw.data[0] ^ 1]) + raw.data[1:])
    out.mkdir()
    write_file(out / "model.safetensors", tensors)
    return out


def test_diff_holds_a_training_to_its_mask(models: list[Path], tmp_path: Path) -> None:
    """EntityCS trains embeddings and the last two layers: exactly the allowed tensors may change, else exit code 1."""
    inside, outside = "model.layers.11.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"
    good = changed(models[0], tmp_path / "good", inside)
    bad = changed(models[0], tmp_path / "bad", inside, outside)
    mask = tmp_path / "mask.json"
    assert suture_("mask", models[0], mask, "--train", "embeddings,last:2", "--quiet").returncode == 0
    done = suture_("diff", models[0], good, "--mask", mask)
    assert done.returncode == 0, done.stderr
    assert re.search("stage 1: of 92 frozen tensors all unchanged; of 19 trained, 18 did not change", done.stdout)
    done = suture_("diff", models[0], bad, "--mask", mask, "--json")
    assert done.returncode == 1
    assert f"expected what the mask freezes unchanged, found changes in {outside}" in done.stderr
    assert str(bad) in done.stderr
    found = json.loads(done.stdout)
    assert found["models"][0]["mask"]["changed"] == [outside]
    assert len(found["models"][0]["mask"]["unmoved"]) == 18
    assert not [*Draft202012Validator(suture.schema("diff")).iter_errors(found)]
    lost = dict(read_checkpoint(models[0]))
    del lost[outside]
    (tmp_path / "lost").mkdir()
    write_file(tmp_path / "lost" / "model.safetensors", lost)
    done = suture_("diff", models[0], tmp_path / "lost", "--mask", mask)
    assert done.returncode == 1
    assert outside in done.stderr


def test_diff_takes_one_stage_or_all(models: list[Path], tmp_path: Path) -> None:
    """Of all stages together that may change which any trains; `--stage` is one; masks of other models are refused."""
    inside, outside = "model.layers.11.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"
    tuned = changed(models[0], tmp_path / "tuned", inside, outside)
    mask = tmp_path / "mask.json"
    (tmp_path / "two.yml").write_text("stages:\n  - {name: a, train: last:2}\n  - {name: b, train: 3}\n")
    assert suture_("mask", models[0], mask, "--stages", tmp_path / "two.yml").returncode == 0
    assert suture_("diff", models[0], tuned, "--mask", mask, "--quiet").returncode == 0
    done = suture_("diff", models[0], tuned, "--mask", mask, "--stage", "a", "--quiet")
    assert done.returncode == 1
    assert outside in done.stderr
    for arguments, said in (
        (["--mask", mask, "--stage", "c"], "has no stage `c`"),
        (["--stage", "a"], "stage: goes with a mask"),
        (["--mask", mask, "--layers", "0"], "leave layers out"),
    ):
        done = suture_("diff", models[0], tuned, *arguments)
        assert done.returncode == 2
        assert said in done.stderr
    other = llama_family(tmp_path / "other", layers=2, n=0, hidden=16, ff=24, vocab=12)[0]
    done = suture_("diff", other, other, "--mask", mask)
    assert done.returncode == 2
    assert "is of another model" in done.stderr
    mask.write_text('{"stages": [{}]}')
    done = suture_("diff", models[0], tuned, "--mask", mask)
    assert done.returncode == 1
    assert "is no mask of suture's" in done.stderr


def test_a_head_that_is_the_embedding_is_told(tmp_path: Path) -> None:
    """What trains the one trains the other: no mask can say otherwise, so that it is said."""
    tied = llama_family(tmp_path, layers=2, n=0, hidden=16, ff=24, vocab=12, tied=True)[0]
    assert any("head is its table" in w for w in suture.mask(tied, train="embeddings")["warnings"])
    assert suture.mask(tied, train="last:1")["warnings"] == []


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """Law 8: exit code 1, no traceback."""
    with pytest.raises(SutureError):
        suture.mask(tmp_path / "nothing", train="all")


def test_a_pattern_may_hold_commas_and_slashes(models: list[Path]) -> None:
    """What stands behind `re:` is the pattern, whatever it holds; selectors before it are apart from it."""
    last = trained(models[0], r"head,last:1/re:layers\.\d{1,2}\..*(q|k)_proj")
    assert last == {"lm_head.weight", *(f"model.layers.11.self_attn.{n}_proj.weight" for n in "qk")}
    assert trained(models[0], r"re:^lm_head|a/b,c") == {"lm_head.weight"}


def test_the_page_lists_what_a_mask_froze(models: list[Path], tmp_path: Path) -> None:
    """`--html`: the overview names frozen tensors that changed, and those that were to be trained and did not."""
    outside = "model.layers.3.mlp.up_proj.weight"
    bad = changed(models[0], tmp_path / "bad", outside)
    (tmp_path / "mask.json").write_bytes(as_bytes(suture.mask(models[0], train="head")))
    found = suture.diff(models[0], bad, mask=tmp_path / "mask.json")
    page = sections(found, None)[0].html
    assert re.search(
        rf"1 tensor that the mask freezes changed</summary><ul><li><code>{re.escape(outside)}</code>", page
    )
    assert "1 tensor that the mask trains did not change</summary><ul><li><code>lm_head.weight</code>" in page
    pytest.importorskip("torch")
    again = suture.diff(models[0], bad, mask=tmp_path / "mask.json", settings=Settings(device="torch-cpu"))
    assert again["models"][0]["mask"] == found["models"][0]["mask"]


def test_a_file_that_is_no_mask_is_not_replaced(models: list[Path], tmp_path: Path) -> None:
    """Law 6: --overwrite replaces a mask, and never weights or anything else of the user's."""
    out = tmp_path / "out.json"
    for text in ("mine", "{}", '{"schema": 1, "stages": []}'):
        out.write_text(text)
        done = suture_("mask", models[0], out, "--train", "all", "--overwrite")
        assert done.returncode == 1
        assert "no mask of suture's" in done.stderr
        assert out.read_text() == text
    out.unlink()
    for train in ("all", "last:1"):
        assert suture_("mask", models[0], out, "--train", train, "--overwrite").returncode == 0
    assert json.loads(out.read_text())["stages"] == suture.mask(models[0], train="last:1")["stages"]
