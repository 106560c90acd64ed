"""Settings of the work are the caller's: what is wrong with one names it, and no key of the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.configs import config, family, write


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and two fine-tunes."""
    return family(tmp_path_factory.mktemp("models"), "math", "lang")


#: Wrong values of every setting there is, and those that only the plan can refuse.
WRONG: dict[str, list[Any]] = {
    "memory": ["lots", "0", "1MiB"],
    "threads": [0, 5000],
    "io": ["tape"],
    "dtype": ["int4", ""],
    "to": ["int4", ""],
    "shard_size": ["-5", "0B"],
    "nan": ["maybe"],
    "chunk": ["0.1B"],
    "seed": [-1, 2**64],
    "vocab": ["cut"],
    "missing": ["ignore"],
    "experts": ["stacked"],
    "routers_from": ["nowhere"],
    "device": ["gpu", "mps", "cuda:4000"],
    "device_memory": ["1GiB"],
    "part": ["3", "0/4", "5/4", "1/0", "a/b"],
    "round": [0, 1],
    "ray": ["ray://host:10001", "config.yaml"],
}
#: Settings whose errors are those of the files that they name (tests/quantised/test_gguf.py).
FILES = {"config_json", "tokenizer_json"}
#: Settings that are on or off.
SWITCHES = {"overwrite", "model_card", "allow_mixed", "ignore_unknown"}


def test_every_setting_is_asked_for() -> None:
    """The test of the test: no setting is left out."""
    assert WRONG.keys() | SWITCHES | FILES == set(suture.Settings.__dataclass_fields__)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
@pytest.mark.parametrize("several", [False, True])
def test_a_setting_is_no_fault_of_the_config(
    name: str, value: Any, several: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    """Law 8: what a setting is refused for names the setting, and neither the config nor a line of it."""
    recipe = config(models, 1.0, dtype="float32", out_dtype="float32")
    path = write(tmp_path / "c.yml", recipe | ({"outputs": {"a": {}, "b": {}}} if several else {}))
    for dry_run in (False, True):
        with pytest.raises(suture.UsageError, match=f"^{name}: ") as caught:
            suture.merge(path, tmp_path / "out", settings=suture.Settings(**{name: value}), dry_run=dry_run)
        assert "c.yml" not in str(caught.value)
        assert caught.value.at == name
    assert [p.name for p in tmp_path.iterdir()] == ["c.yml"]


def test_the_dtype_of_the_config_is_one(models: dict[str, Path], tmp_path: Path) -> None:
    """Without the setting it is the config's line that is wrong."""
    path = write(tmp_path / "c.yml", config(models, 1.0, out_dtype="int4"))
    with pytest.raises(suture.UsageError, match=r"c\.yml:\d+: out_dtype"):
        suture.merge(path, tmp_path / "out")


#: What only merges do, asked for.
OF_MERGES: dict[str, Any] = {
    "vocab": "crop",
    "missing": "skip",
    "experts": "apart",
    "routers_from": "a",
    "ignore_unknown": True,
}
OTHERS = {
    "swap": lambda a, b, out, s: suture.swap(a, b, out, layers="0", settings=s),
    "revert": lambda a, b, out, s: suture.revert(b, a, out, layers="0", settings=s),
    "convert": lambda a, b, out, s: suture.convert(a, out, settings=s),
    "fold": lambda a, b, out, s: suture.fold(a, [b], out, settings=s),
    "lora merge": lambda a, b, out, s: suture.merge_adapters([a, b], out, settings=s),
}


@pytest.mark.parametrize("verb", OTHERS)
@pytest.mark.parametrize("name", OF_MERGES)
def test_what_only_merges_do_is_refused_elsewhere(
    name: str, verb: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """A setting that nobody would look at is an error, not passed over."""
    given = suture.Settings(**{name: OF_MERGES[name]})
    with pytest.raises(suture.UsageError, match=f"^{name}: only merges") as caught:
        OTHERS[verb](models["base"], models["math"], tmp_path / "out", given)
    assert caught.value.at == name
    assert not (tmp_path / "out").exists()
