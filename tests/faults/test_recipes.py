"""A mistake in a recipe is told in one line that says where it is, and costs nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.checkpoints import llama_family

MARK = "# here"


@dataclass(frozen=True)
class Case:
    """A wrong config; the line that ends in `# here` is the one the error must name."""

    config: str
    says: tuple[str, ...]


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


def tree(folder: Path) -> set[str]:
    """Every path below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_refused(done: subprocess.CompletedProcess[str], *says: str) -> str:
    """Exit code 2, nothing on stdout, one `error:` line that says all of `says`; returns it."""
    if "Traceback" in done.stderr:
        pytest.fail("traceback: " + done.stderr.splitlines()[-1], pytrace=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    assert not lines[0].endswith("."), done.stderr
    for text in says:
        assert text in lines[0], f"`{text}` is not in: {lines[0]}"
    return lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `tuned-1`, `tuned-2` (4 layers each) and `short` (2 layers)."""
    folder = tmp_path_factory.mktemp("recipes")
    sizes = {"hidden": 8, "heads": 2, "kv_heads": 1, "ff": 12, "vocab": 10}
    llama_family(folder, layers=4, n=2, **sizes)  # type: ignore[arg-type]
    llama_family(folder / "other", layers=2, n=0, **sizes)[0].rename(folder / "short")  # type: ignore[arg-type]
    (folder / "other").rmdir()
    (folder / "link").symlink_to("tuned-1")
    return folder


LINEAR = """
merge_method: linear
models:
- model: base
  parameters: {weight: 1}
- model: tuned-1
  parameters: {weight: 1}
"""
TIES = """
merge_method: ties
base_model: base
models:
- model: tuned-1
- model: tuned-2
parameters:
  weight: 0.5
  density: 0.5
"""
SLICES = """
merge_method: passthrough
slices:
- sources:
  - model: base
    layer_range: [0, 2]
- sources:
  - model: tuned-1
    layer_range: [2, 4]
"""

CASES: dict[str, Case] = {
    # names that do not exist
    "unknown_key": Case(LINEAR + "base_modle: base  # here\n", ("base_modle", "did you mean `base_model`?")),
    "unknown_key_far_off": Case(LINEAR + "colour: red  # here\n", ("colour", "merge_method", "base_model")),
    "unknown_key_of_a_model": Case(
        LINEAR + "- model: tuned-2\n  parametres: {weight: 1}  # here\n",
        ("models[2].parametres", "did you mean `parameters`?"),
    ),
    "unknown_key_of_a_slice": Case(SLICES + "  sorces: []  # here\n", ("slices[1].sorces", "did you mean `sources`?")),
    "unknown_key_of_a_source": Case(
        SLICES + "  - model: base\n    layer_rang: [0, 1]  # here\n", ("did you mean `layer_range`?",)
    ),
    "unknown_key_of_a_rule": Case(
        LINEAR + "parameters:\n  weight:\n  - filtre: mlp  # here\n    value: 1\n",
        ("parameters.weight[0].filtre", "did you mean `filter`?"),
    ),
    "misspelt_method_key": Case(
        LINEAR.replace("merge_method: linear", "merge_metod: linear"), ("merge_method", "merge_metod")
    ),
    "unknown_method": Case(
        TIES.replace("merge_method: ties", "merge_method: tise  # here"), ("`tise`", "did you mean `ties`?")
    ),
    "unknown_method_far_off": Case(
        TIES.replace("merge_method: ties", "merge_method: qqq  # here"), ("`qqq`", "linear", "dare_ties")
    ),
    "unknown_parameter": Case(
        TIES + "  densty: 0.3  # here\n", ("ties", "`densty`", "did you mean `density`?")
    ),
    # what is not supported is refused by name
    "tokenizer_source": Case(LINEAR + "tokenizer_source: base  # here\n", ("tokenizer_source: ", "has no tokenizer")),
    "tokenizer_tokens": Case(
        LINEAR + "tokenizer:\n  tokens: {a: {force: 1}}  # here\n", ("tokenizer.tokens.a.force: ", "true or false")
    ),
    "tokenizer_pad": Case(
        LINEAR + "tokenizer:\n  pad_to_multiple_of: -8  # here\n", ("tokenizer.pad_to_multiple_of: ", "found `-8`")
    ),
    "tokenizer_key": Case(
        LINEAR + "tokenizer:\n  sorce: base  # here\n", ("tokenizer.sorce: ", "expected one of source")
    ),
    "tokenizer_twice": Case(
        LINEAR + "tokenizer: {}\ntokenizer_source: base  # here\n", ("tokenizer_source: ", "give one")
    ),
    "chat_template": Case(LINEAR + "chat_template: vicuna  # here\n", ("chat_template: ", "chatml", "vicuna")),
    "modules": Case(LINEAR + "modules: {}  # here\n", ("modules: ", "beside `models`")),
    "adapter": Case(
        LINEAR + "- model: base+some/lora  # here\n  parameters: {weight: 1}\n",
        ("models[2].model", "base+some/lora", "no such file or folder", "hf download some/lora"),
    ),
    "adapter_as_mapping": Case(
        LINEAR + "- model: {model: {path: base}, lora: x}  # here\n  parameters: {weight: 1}\n",
        ("models[2].model", "base+x", "no such file or folder: x"),
    ),
    # models
    "missing_model": Case(LINEAR + "- model: nowhere  # here\n", ("`nowhere`", "no such file or folder")),
    "missing_base": Case(TIES.replace("base_model: base\n", ""), ("base_model", "ties", "needs")),
    "missing_base_for_slerp": Case(
        "merge_method: slerp\nmodels: [{model: base}, {model: tuned-1}]\nparameters: {t: 0.5}\n",
        ("base_model", "slerp", "needs"),
    ),
    "base_not_there": Case(
        TIES.replace("base_model: base", "base_model: bose  # here"), ("base_model: `bose`",)
    ),
    "base_is_text": Case(TIES.replace("base_model: base", "base_model: 7  # here"), ("base_model", "found 7")),
    "slerp_of_three": Case(
        "merge_method: slerp\nbase_model: base\n"
        "models:  # here\n- model: base\n- model: tuned-1\n- model: tuned-2\nparameters: {t: 0.5}\n",
        ("slerp takes exactly 2", "found 3"),
    ),
    "slerp_of_one": Case(
        "merge_method: slerp\nbase_model: base\nmodels:  # here\n- model: base\nparameters: {t: 0.5}\n",
        ("slerp takes exactly 2", "found 1"),
    ),
    "passthrough_of_two": Case(
        "merge_method: passthrough\nmodels:  # here\n- model: base\n- model: tuned-1\n",
        ("passthrough takes exactly 1", "found 2"),
    ),
    "nothing_besides_the_base": Case(
        "merge_method: model_stock\nbase_model: base\nmodels:  # here\n- model: base\n",
        ("model_stock takes at least 2", "found 0"),
    ),
    "same_model_twice": Case(
        LINEAR + "- model: tuned-1  # here\n  parameters: {weight: 1}\n", ("tuned-1", "listed twice")
    ),
    "same_model_twice_by_a_detour": Case(
        LINEAR + "- model: short/../tuned-1  # here\n  parameters: {weight: 1}\n", ("tuned-1", "listed twice")
    ),
    "same_model_twice_by_a_link": Case(
        LINEAR + "- model: link  # here\n  parameters: {weight: 1}\n", ("link", "listed twice")
    ),
    "models_and_slices": Case(LINEAR + "slices: []\n", ("`models` or `slices`, not both",)),
    "neither_models_nor_slices": Case("merge_method: linear\n", ("`models`", "`slices`")),
    "no_models": Case("merge_method: linear\nmodels: []  # here\n", ("models", "is empty")),
    "no_slices": Case("merge_method: passthrough\nslices: []  # here\n", ("slices", "is empty")),
    "no_sources": Case(
        "merge_method: passthrough\nslices:\n- parameters: {}  # here\n", ("slices[0]", "`sources` is missing")
    ),
    # layers
    "range_outside_the_model": Case(
        SLICES.replace("[2, 4]", "[2, 5]  # here"), ("slices[1].sources[0].layer_range", "5", "4 layers")
    ),
    "range_backwards": Case(SLICES.replace("[2, 4]", "[3, 2]  # here"), ("layer_range", "[3, 2]")),
    "range_of_nothing": Case(SLICES.replace("[2, 4]", "[2, 2]  # here"), ("layer_range", "holds no layer")),
    "range_negative": Case(SLICES.replace("[2, 4]", "[-1, 2]  # here"), ("layer_range", "[-1,2]")),
    "range_of_one_number": Case(SLICES.replace("[2, 4]", "[2]  # here"), ("layer_range", "[2]")),
    "range_as_text": Case(SLICES.replace("[2, 4]", "2-4  # here"), ("layer_range", '"2-4"')),
    "range_of_fractions": Case(SLICES.replace("[2, 4]", "[0.5, 2]  # here"), ("layer_range", "0.5")),
    "unequal_ranges": Case(
        "merge_method: linear\nslices:\n- sources:\n  - {model: base, layer_range: [0, 2]}\n"
        "  - {model: tuned-1, layer_range: [0, 3]}  # here\nparameters: {weight: 1}\n",
        ("slices[0].sources[1]", "3 layers", "gives 2"),
    ),
    # parameters
    "weights_sum_to_zero": Case(
        LINEAR.replace("tuned-1\n  parameters: {weight: 1}", "tuned-1\n  parameters: {weight: -1}"),
        ("weights sum to zero", "normalize: false"),
    ),
    "weights_sum_to_zero_normalised": Case(
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- {model: tuned-1, parameters: {weight: 2}}\n"
        "- {model: tuned-2, parameters: {weight: -2}}\nparameters: {normalize: true}\n",
        ("weights sum to zero",),
    ),
    "weight_missing": Case(TIES.replace("  weight: 0.5\n", ""), ("ties needs `weight`", "tuned-1")),
    "density_zero": Case(TIES.replace("density: 0.5", "density: 0"), ("density", "above 0", "found 0")),
    "density_above_one": Case(
        TIES.replace("density: 0.5", "density: 1.5  # here"), ("parameters.density", "from 0 to 1", "1.5")
    ),
    "density_negative": Case(
        TIES.replace("density: 0.5", "density: -0.1  # here"), ("parameters.density", "from 0 to 1", "-0.1")
    ),
    "density_above_one_in_a_gradient": Case(
        TIES.replace("density: 0.5", "density: [0.5, 2]  # here"), ("parameters.density[1]", "found 2")
    ),
    "gradient_empty": Case(
        TIES.replace("density: 0.5", "density: []  # here"), ("parameters.density", "at least one value")
    ),
    "gradient_of_words": Case(
        TIES.replace("density: 0.5", "density: [0.5, much]  # here"), ("parameters.density[1]", '"much"')
    ),
    "rule_without_value": Case(
        LINEAR + "parameters:\n  weight:\n  - filter: mlp  # here\n", ("parameters.weight[0]", "`value`")
    ),
    "rules_that_leave_a_tensor_out": Case(
        "merge_method: linear\nmodels: [{model: base}, {model: tuned-1}]\n"
        "parameters: {weight: [{filter: mlp, value: 1}]}\n",
        ("linear needs `weight`", "model.embed_tokens.weight"),
    ),
    "parameter_of_the_merge_under_a_model": Case(
        LINEAR + "- model: tuned-2\n  parameters:\n    weight: 1\n    normalize: false  # here\n",
        ("models[2].parameters.normalize", "move it to the outer `parameters`"),
    ),
    "t_under_a_model": Case(
        "merge_method: slerp\nbase_model: base\nmodels:\n- model: base\n- model: tuned-1\n"
        "  parameters:\n    t: 0.5  # here\n",
        ("models[1].parameters.t", "outer `parameters`"),
    ),
    # wrong types
    "weight_is_text": Case(TIES.replace("weight: 0.5", "weight: heavy  # here"), ("a number", '"heavy"')),
    "weight_is_a_switch": Case(TIES.replace("weight: 0.5", "weight: true  # here"), ("a number", "true")),
    "weight_is_a_date": Case(TIES.replace("weight: 0.5", "weight: 2020-01-01  # here"), ("weight",)),
    "weight_is_bytes": Case(TIES.replace("weight: 0.5", "weight: !!binary aGk=  # here"), ("weight",)),
    "weight_is_a_set": Case(TIES.replace("weight: 0.5", "weight: !!set {a, b}  # here"), ("weight",)),
    "weight_is_nan": Case(TIES.replace("weight: 0.5", "weight: .nan  # here"), ("weight", "number")),
    "weight_is_infinite": Case(TIES.replace("weight: 0.5", "weight: -.inf  # here"), ("weight", "number")),
    "switch_is_text": Case(TIES + "  normalize: perhaps  # here\n", ("normalize", "true or false", '"perhaps"')),
    "switch_is_two": Case(TIES + "  normalize: 2  # here\n", ("normalize", "true or false", "2")),
    "choice_is_unknown": Case(TIES + "  rescale: l3  # here\n", ("rescale", "l1", "density", '"l3"')),
    "parameters_are_a_list": Case(LINEAR + "parameters: [1]  # here\n", ("parameters", "a mapping")),
    "models_are_a_mapping": Case("merge_method: linear\nmodels: {model: base}  # here\n", ("models", "a list")),
    "models_are_text": Case("merge_method: linear\nmodels: base  # here\n", ("models", "a list", '"base"')),
    "a_model_is_text": Case(LINEAR + "- tuned-2  # here\n", ("models[2]", "a mapping", '"tuned-2"')),
    "a_model_is_a_number": Case(LINEAR + "- model: 3  # here\n", ("models[2].model", "path of a model", "3")),
    "a_model_is_empty": Case(LINEAR + "- model: ''  # here\n", ("models[2].model",)),
    "a_model_has_a_null_byte": Case(LINEAR + '- model: "a\\0b"  # here\n', ("models[2].model",)),
    "method_is_a_number": Case("merge_method: 5  # here\nmodels: [{model: base}]\n", ("merge_method", "5")),
    "method_is_a_list": Case("merge_method: [ties]  # here\nmodels: [{model: base}]\n", ("merge_method",)),
    "dtype_is_unknown": Case(LINEAR + "dtype: int8  # here\n", ("dtype", "bfloat16", "int8")),
    "out_dtype_is_a_number": Case(LINEAR + "out_dtype: 16  # here\n", ("out_dtype", "16")),
    "key_is_a_number": Case(LINEAR + "5: 5  # here\n", ("unknown key",)),
    # not a config
    "not_yaml": Case("merge_method: linear\nmodels: ]  # here\n", ("not valid YAML",)),
    "tab": Case("merge_method: linear\nmodels:\n\t- model: base  # here\n", ("not valid YAML",)),
    "list": Case("- merge_method: linear\n", ("expected a mapping",)),
    "scalar": Case("linear\n", ("expected a mapping",)),
    "empty": Case("", ("expected a mapping",)),
    "two_documents": Case(LINEAR + "---\n" + LINEAR, ("only one", "`name`")),
    "duplicate_key": Case(LINEAR + "merge_method: ties  # here\n", ("`merge_method`", "twice")),
    "duplicate_key_inside": Case(
        TIES + "  weight: 1  # here\n", ("`weight`", "twice")
    ),
    "key_is_a_list": Case(LINEAR + "? [a]\n: b\n", ("not valid YAML",)),
    "python_object": Case(
        LINEAR + 'dtype: !!python/object/apply:os.system ["touch owned"]\n', ("not valid YAML",)
    ),
    "alias_of_itself": Case(LINEAR + "parameters: &a\n  weight: *a\n", ("config.yml",)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_wrong_config_is_refused(name: str, place: Path) -> None:
    """Laws 6 and 8: exit code 2, one line with file, line and what to do; nothing is left beside OUT."""
    case = CASES[name]
    config = place / "config.yml"
    config.write_text(case.config)
    before = tree(place)
    says = list(case.says)
    marked = [number for number, line in enumerate(case.config.splitlines(), 1) if line.endswith(MARK)]
    says.append(f"config.yml:{marked[0]}: " if marked else "config.yml")
    try:
        assert_refused(run("merge", "config.yml", "out", cwd=place), *says)
        assert tree(place) == before
    finally:
        config.unlink()
        shutil.rmtree(place / "out", ignore_errors=True)


def test_bundle_of_aliases_is_refused_soon(place: Path) -> None:
    """Law 7: a config of a few lines that unfolds into thousands of millions of values ends in an error."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (place / "bundle.yml").write_text("\n".join(lines) + "\nmerge_method: linear\n")
    # Bounded, so that a failure does not take the machine's memory with it.
    code = "import resource as r; r.setrlimit(r.RLIMIT_AS, (2**31, 2**31)); from suture.cli import main; main()"
    command = [sys.executable, "-c", code, "merge", "bundle.yml", "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, cwd=place)
    assert_refused(done, "bundle.yml")


SWAP = ("swap", "--into", "base", "--from", "tuned-1", "out")
SWAPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "too_many": (("--bottom", "3", "--top", "2"), ("bottom 3", "top 2", "there are 4 layers")),
    "too_many_with_transition": (
        ("--bottom", "2", "--top", "1", "--transition", "1"),
        ("2 transition layers", "5", "there are 4 layers"),
    ),
    "far_too_many": (("--bottom", str(2**62)), ("4 layers",)),
    "beyond_any_number": (("--bottom", str(10**30)), ("bottom", "number")),
    "negative": (("--bottom", "-1"), ("bottom", "-1")),
    "layer_outside": (("--layers", "0,4"), ("layer 4 does not exist", "there are 4")),
    "layers_backwards": (("--layers", "3-1"), ("layers", "3-1")),
    "layers_of_words": (("--layers", "first"), ("layers", "first", "0-4,30,31")),
    "layers_of_nothing": (("--layers", ""), ("layers",)),
    "layers_without_end": (("--layers", "0-"), ("layers", "0-")),
    "layers_with_bottom": (("--layers", "0", "--bottom", "1"), ("layers", "bottom")),
    "layers_with_transition": (("--layers", "0", "--transition", "1"), ("layers", "transition")),
    "blend_above_one": (("--bottom", "1", "--transition", "1", "--blend", "1.5"), ("blend", "0 to 1", "1.5")),
    "blend_negative": (("--bottom", "1", "--transition", "1", "--blend", "-0.5"), ("blend", "0 to 1", "-0.5")),
    "blend_nan": (("--bottom", "1", "--transition", "1", "--blend", "nan"), ("blend", "number")),
    "bad_glob": (("--bottom", "1", "--modules", "mlp.[a"), ("modules", "mlp.[a")),
    "dtype": (("--bottom", "1", "--dtype", "int8"), ("dtype", "bfloat16", "int8")),
    "memory_is_no_size": (("--bottom", "1", "--memory", "abc"), ("memory", "256MiB", "abc")),
    "memory_is_nothing": (("--bottom", "1", "--memory", "0"), ("memory", "`0`")),
    "memory_is_negative": (("--bottom", "1", "--memory", "-5MiB"), ("memory", "-5MiB")),
    "memory_too_small": (("--bottom", "1", "--memory", "1MiB"), ("memory", "smallest that works")),
    "chunk_is_no_size": (("--bottom", "1", "--chunk", "some"), ("chunk", "some")),
    "shard_size_is_nothing": (("--bottom", "1", "--shard-size", "0GB"), ("shard", "0GB")),
    "no_threads": (("--bottom", "1", "--threads", "0"), ("threads", "found 0")),
    "too_many_threads": (("--bottom", "1", "--threads", "100000"), ("threads", "100000")),
}  # fmt: skip


@pytest.mark.parametrize("name", SWAPS)
def test_wrong_swap_is_refused(name: str, place: Path) -> None:
    """Laws 6 and 8: exit code 2, one line that says what is wrong; nothing is left beside OUT."""
    options, says = SWAPS[name]
    before = tree(place)
    assert_refused(run(*SWAP, *options, cwd=place), *says)
    assert tree(place) == before


@pytest.mark.parametrize("option", ["--memory", "--shard-size", "--chunk", "--threads", "--seed", "--dtype"])
def test_wrong_options_of_merge_are_refused(option: str, place: Path) -> None:
    """Law 8: the same for the options of `merge`, whatever is wrong with them."""
    (place / "good.yml").write_text(LINEAR)
    before = tree(place)
    value = "-1" if option in ("--threads", "--seed") else "abc"
    name = option.removeprefix("--").replace("-", "_")
    assert_refused(run("merge", "good.yml", "out", option, value, cwd=place), name, value)
    assert tree(place) == before


@pytest.mark.parametrize("verb", ["merge", "swap"])
def test_smallest_memory_is_the_smallest(verb: str, place: Path, tmp_path: Path) -> None:
    """Law 1: an impossible budget is refused with the smallest that works, and that one works."""
    (place / "ties.yml").write_text(TIES)
    verb_and_inputs = ["merge", "ties.yml"] if verb == "merge" else [*SWAP[:-1], "--bottom", "1"]
    command = [*verb_and_inputs, str(tmp_path / "out")]
    line = assert_refused(run(*command, "--memory", "1MiB", cwd=place), "1 MiB")
    found = re.search(r"smallest that works is (\d+) MiB", line)
    assert found, line
    needed = int(found[1])
    assert_refused(run(*command, "--memory", f"{needed - 1}MiB", cwd=place), f"{needed} MiB")
    assert list(tmp_path.iterdir()) == []
    done = run(*command, "--memory", f"{needed}MiB", cwd=place)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_dry_run_refuses_too(place: Path) -> None:
    """A dry run shows a plan or the same error as the run itself."""
    (place / "dry.yml").write_text(TIES.replace("density: 0.5", "density: 1.5"))
    before = tree(place)
    assert_refused(run("merge", "dry.yml", "out", "--dry-run", cwd=place), "dry.yml:", "parameters.density")
    assert_refused(run(*SWAP, "--bottom", "9", "--dry-run", cwd=place), "4 layers")
    assert tree(place) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"merge_method": None, "merge_metod": "linear"}, r"`merge_method` is missing; write it for `merge_metod`"),
        ({"models": [{"modle": "a"}]}, r"`model` is missing; write it for `modle`"),
        ({"models": None, "model": [{"model": "a"}]}, r"`models` is missing.*; write it for `model`"),
        ({"merge_method": "LINEAR"}, r"did you mean `linear`"),
        ({"models": [{"model": "a", "weight": 1}]}, r"needs `weight` for a, .*it goes under `parameters`"),
        ({"chat_template": "chatmll"}, r"did you mean `chatml`"),
        ({"tokenizer_source": "unoin"}, r"or the words base and union"),
    ],
    ids=str,
)
def test_slips_are_answered_with_what_was_meant(
    change: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 8: a key one letter off, or one level too high."""
    monkeypatch.chdir(tmp_path)
    (model,) = llama_family(tmp_path, n=0)
    model.rename(tmp_path / "a")
    recipe: dict[str, Any] = {
        "merge_method": "linear",
        "models": [{"model": "a", "parameters": {"weight": 1}}],
        **change,
    }
    with pytest.raises(suture.UsageError, match=says):
        suture.merge({key: value for key, value in recipe.items() if value is not None}, "out")


@pytest.mark.parametrize("adapters", [3, [3], [{"path": 3}], [{"path": "a", "weight": "x"}], [{"weight": 1}]], ids=str)
def test_adapters_that_are_none(adapters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: a model as a report has it, written wrongly by hand."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    recipe = {"merge_method": "linear", "models": [{"model": {"path": "a", "adapters": adapters}}]}
    with pytest.raises(suture.UsageError, match=r"models\[0\]\.model\.adapters: expected a list") as caught:
        suture.merge(recipe, "out")
    assert caught.value.at == "models[0].model.adapters"
