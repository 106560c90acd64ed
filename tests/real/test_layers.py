"""``suture layers`` against layers run by hand in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.errors import UsageError

CASES: list[tuple[dict[str, Any], list[int]]] = [
    ({"keep": "0-1,4,5"}, [0, 1, 4, 5]),
    ({"drop": "2,3"}, [0, 1, 4, 5]),
    ({"repeat": "2-3"}, [0, 1, 2, 3, 2, 3, 4, 5]),
    ({"repeat": "4-5"}, [0, 1, 2, 3, 4, 5, 4, 5]),
    ({"stride": 2}, [1, 3, 5]),
    ({"stride": 3}, [2, 5]),
]


@pytest.fixture(scope="module", params=["Llama", "Qwen3", "Gemma", "Mistral"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, transformers: Any) -> Path:
    """A random model of six layers."""
    import torch

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64, "head_dim": 8,
    }  # fmt: skip
    made = getattr(transformers, f"{request.param}ForCausalLM")(
        getattr(transformers, f"{request.param}Config")(**sizes)
    )
    folder = tmp_path_factory.mktemp("layers") / "model"
    made.save_pretrained(folder)
    return folder


def run(path: Path, order: list[int] | None = None) -> Any:
    """The logits of a model, or of its layers in another order, by hand."""
    import torch
    import transformers

    found: Any
    found, info = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(info.values()), info
    if order is not None:
        found.model.layers = torch.nn.ModuleList([found.model.layers[i] for i in order])
        if (kinds := getattr(found.config, "layer_types", None)) is not None:
            found.config.layer_types = [kinds[i] for i in order]
        found.config.num_hidden_layers = found.model.config.num_hidden_layers = len(order)
    with torch.no_grad():
        return found.eval()(torch.arange(18).reshape(2, 9) * 5 % 96, use_cache=False).logits.numpy()


@pytest.mark.parametrize(("asked", "order"), CASES, ids=[str(c[0]) for c in CASES])
def test_the_layers_are_those_run_by_hand(model: Path, tmp_path: Path, asked: dict[str, Any], order: list[int]) -> None:
    """Law: the output's logits are those of the layers run by hand, bit for bit."""
    suture.layers(model, tmp_path / "out", **asked)
    assert np.array_equal(run(tmp_path / "out"), run(model, order))


def test_slices_of_several_models_and_scales(model: Path, tmp_path: Path) -> None:
    """Law: slices are stacked as named; a scale multiplies the matrices it names, with `repeat` in copies alone."""
    from safetensors.numpy import load_file

    suture.layers(model, tmp_path / "half", keep="0-2", scale={"o_proj": 0.5})
    suture.layers(None, tmp_path / "both", from_slices=f"{model}=0-2,{tmp_path / 'half'}=1-2,{model}=5")
    own, half, both = (load_file(p / "model.safetensors") for p in (model, tmp_path / "half", tmp_path / "both"))
    for place, (source, layer) in enumerate([(own, 0), (own, 1), (own, 2), (half, 1), (half, 2), (own, 5)]):
        for name in (n for n in own if n.startswith("model.layers.0.")):
            want = source[name.replace(".0.", f".{layer}.", 1)]
            assert np.array_equal(both[name.replace(".0.", f".{place}.", 1)], want)
    suture.layers(model, tmp_path / "twice", repeat="1", scale={"down_proj": 0.25})
    twice, name = load_file(tmp_path / "twice" / "model.safetensors"), "model.layers.{}.mlp.down_proj.weight"
    assert np.array_equal(twice[name.format(1)], own[name.format(1)])
    assert np.array_equal(twice[name.format(2)], own[name.format(1)] * np.float32(0.25))
    assert np.array_equal(twice[name.format(3)], own[name.format(2)])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"keep": "0-9"}, "there is no layer 9"),
        ({"keep": "3-1"}, "expected layers such as"),
        ({"drop": "0-5"}, "leaves no layer"),
        ({"stride": 4}, "divides the 6 layers"),
        ({"stride": 2, "keep": "0"}, "found keep and stride"),
        ({}, "found none"),
        ({"keep": "a"}, "expected layers such as"),
    ],
)
def test_mistakes_are_refused(model: Path, tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    """Law: ranges that are none, or leave nothing, are refused by name."""
    with pytest.raises(UsageError, match=words):
        suture.layers(model, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_what_goes_is_told(model: Path, tmp_path: Path) -> None:
    """Law: the report tells what a training had changed in each layer that goes, by NumPy's norms."""
    from safetensors.numpy import load_file, save_file

    base, own = tmp_path / "base", load_file(model / "model.safetensors")
    base.mkdir()
    (base / "config.json").write_bytes((model / "config.json").read_bytes())
    rng = np.random.default_rng(0)
    was = {n: t + 0.01 * rng.standard_normal(t.shape).astype(t.dtype) if ".2." in n else t for n, t in own.items()}
    save_file(was, base / "model.safetensors", metadata={"format": "pt"})
    report = suture.layers(model, tmp_path / "out", drop="2,4", report=base)
    told = [text for title, text in report.data["notes"] if title == "cut"]
    names = [n for n in own if n.startswith("model.layers.2.")]
    change = sum(float(((own[n] - was[n]).astype("f8") ** 2).sum()) for n in names) ** 0.5
    norm = sum(float((was[n].astype("f8") ** 2).sum()) for n in names) ** 0.5
    assert told[0] == f"layer 2 was changed by {change / norm:.2%} of its norm in {base}, 100.0% of its elements"
    assert told[1].startswith("layer 4 was changed by 0.00%")
    with pytest.raises(UsageError, match="no layer goes"):
        suture.layers(model, tmp_path / "none", repeat="1", report=base)
    save_file({n: t * 0 if ".2." in n else t for n, t in own.items()}, base / "model.safetensors")
    report = suture.layers(model, tmp_path / "zeros", drop="2", report=base)
    assert "from zeros" in dict(report.data["notes"])["cut"]


def test_layers_of_least_influence_go(model: Path, tmp_path: Path) -> None:
    """Law: `least:N` drops the N that come first in the order that `suture text influence` found."""
    file = tmp_path / "influence.json"
    file.write_text('{"order": [4, 1, 0, 2, 3, 5]}')
    suture.layers(model, tmp_path / "by", drop="least:2", influence=file)
    suture.layers(model, tmp_path / "hand", drop="1,4")
    names = ("model.safetensors", "config.json")
    assert all((tmp_path / "by" / n).read_bytes() == (tmp_path / "hand" / n).read_bytes() for n in names)


@pytest.mark.parametrize(
    ("asked", "text", "told"),
    [
        ({"drop": "least:2"}, None, "needs influence"),
        ({"drop": "2"}, '{"order": [0, 1, 2, 3, 4, 5]}', "expected drop as"),
        ({"drop": "least:6"}, '{"order": [0, 1, 2, 3, 4, 5]}', "least:1 to least:5"),
        ({"drop": "least:2"}, '{"order": [0, 1]}', "tells of 2 layers, and the model has 6"),
        ({"drop": "least:2"}, "{}", "is not what"),
    ],
)
def test_mistakes_with_influence(
    model: Path, tmp_path: Path, asked: dict[str, Any], text: str | None, told: str
) -> None:
    """Law: a mistake is named, and nothing is written."""
    if text is not None:
        (tmp_path / "found.json").write_text(text)
        asked = {**asked, "influence": tmp_path / "found.json"}
    with pytest.raises(suture.SutureError, match=told):
        suture.layers(model, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()
