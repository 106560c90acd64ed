"""Where the parts of a model were once misread: each a case of a law that the other files here hold over every form."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.analysis.layers import listed_layers, moved

from ..support.catalogue import Case
from ..support.checkpoints import encode, read_checkpoint, write_checkpoint, write_json
from ..support.stacks import MODELS, Model, Stack, tensors, write
from . import test_buffers as buffers
from . import test_configs_agree as agree
from . import test_tied as tied
from . import test_what_goes_beside as beside
from . import test_what_is_a_model as files


def entries(*models: Path, **more: Any) -> list[dict[str, Any]]:
    return [{"model": str(m), "parameters": {"weight": 0.5}, **more} for m in models]


def runs(model: Path, *listed: tuple[int, int]) -> list[dict[str, Any]]:
    """Slices of one model."""
    return [{"sources": [{"model": str(model), "layer_range": list(r)}]} for r in listed]


# --- stacks, and what is outside of them -------------------------------------------------------------------------


@pytest.mark.parametrize("non_layer", ["from", "mean", "base"])
@pytest.mark.parametrize(
    ("prefix", "outside"),
    [
        ("transformer_blocks.", "x_embedder.weight"),
        ("transformer_blocks.", "context_embedder.weight"),
        ("transformer_blocks.", "time_text_embed.timestep_embedder.linear_1.weight"),
        ("model.diffusion_model.joint_blocks.", "model.diffusion_model.x_embedder.proj.weight"),
        ("distilbert.transformer.layer.", "vocab_projector.weight"),
    ],
)
def test_in_a_model_of_one_stack_everything_else_is_outside(
    prefix: str, outside: str, non_layer: str, place: Path
) -> None:
    """Outside means outside all stacks: where there is one, no word in a name (embedder, projector) says otherwise."""
    model = Model((Stack(prefix, 3),), prefix, (outside, "norm.weight"))
    into, donor, base = (write(place / n, model, i) for i, n in enumerate("abc"))
    suture.swap(into, donor, place / "out", layers="0", non_layer=non_layer, base=base)
    found, own = read_checkpoint(place / "out"), read_checkpoint(into)
    assert found[outside] != own[outside]
    assert found["norm.weight"] != own["norm.weight"]


@pytest.mark.parametrize("non_layer", ["from", "mean"])
def test_a_head_that_the_recipient_ties_is_not_lost_for_its_name(non_layer: str, place: Path) -> None:
    """`--non-layer from` of DistilBERT: `vocab_projector` is its head and no projector of a tower; it comes along."""
    family = tied.FAMILIES["distilbert"]
    once = tied.written(place, family, "tied", 1, twice=False)
    free = dict(family.config) | {"tie_word_embeddings": False}
    untied = write_checkpoint(place / "untied", tied.made(family, 2, twice=False, untied=True), config=free)
    suture.swap(once, untied, place / "out", layers="0", non_layer=non_layer)
    assert family.copies[0] in read_checkpoint(place / "out")


def test_prediction_blocks_of_their_own_prefix_are_not_counted_by_the_layers(place: Path) -> None:
    """`mtp.layers.` beside `model.layers.` (Qwen3-Next): num_hidden_layers is not its count; nothing is doubted."""
    assert suture.inspect(write(place / "m", MODELS["next-token prediction apart"], 1))["warnings"] == []


UNEQUAL = Model(
    (Stack("a.layers.", 3), Stack("b.layers.", 2)), "b.layers.", ("x.weight",), config={"num_hidden_layers": 2}
)


def test_a_count_belongs_to_the_stack_that_it_chose(place: Path) -> None:
    """`b` is the main stack because num_hidden_layers counts it; of `a` it says nothing, so nothing is doubted."""
    assert suture.inspect(write(place / "m", UNEQUAL, 1))["warnings"] == []


def test_a_stack_that_the_config_does_not_count_can_be_cut(place: Path) -> None:
    """Slices of `a` leave the count of `b` alone, and are not refused for it."""
    model = write(place / "m", UNEQUAL, 1)
    suture.merge({"merge_method": "passthrough", "stack": "a", "slices": runs(model, (0, 3), (1, 3))}, place / "out")
    assert json.loads((place / "out" / "config.json").read_text())["num_hidden_layers"] == 2
    assert {s["prefix"]: s["layers"] for s in suture.inspect(place / "out")["stacks"]} == {
        "a.layers.": 5,
        "b.layers.": 2,
    }


def test_no_two_stacks_have_one_name(place: Path) -> None:
    """A stack that is called `prediction` is told from the blocks that suture calls so."""
    names = [f"prediction.layers.{i}.w" for i in range(2)]
    names += ["model.layers.0.w", "model.layers.1.w", "model.layers.2.eh_proj.weight"]
    models = [
        write_checkpoint(place / label, {n: encode(np.full((2, 2), seed + i), "F32") for i, n in enumerate(names)})
        for seed, label in ((0, "a"), (9, "b"))
    ]
    labels = [s["name"] for s in suture.inspect(models[0])["stacks"]]
    assert len(set(labels)) == len(labels) == 3
    for stack in suture.inspect(models[0])["stacks"]:
        last = stack["layers"] - 1
        suture.swap(
            models[0], models[1], place / f"out-{stack['prefix']}{stack['first']}", layers=[last], stack=stack["name"]
        )
        found = suture.diff(models[0], place / f"out-{stack['prefix']}{stack['first']}")
        moved(found, listed_layers(models[0], f"{stack['name']}:{last}"))


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_one_model_that_decides_is_enough(order: str, place: Path) -> None:
    """Slices of a model whose config decides, and of the same as a lone file: the one decides for both."""
    model = MODELS["flux, diffusers"]
    a, b = write(place / "a", model, 1), write_checkpoint(place / "b", tensors(model, 2))
    models = [a, b] if order == "ab" else [b, a]
    suture.merge(
        {"merge_method": "linear", "slices": [{"sources": entries(*models, layer_range=[0, 2])}]}, place / "out"
    )


def test_modules_that_are_sliced_change_their_own_counts(place: Path) -> None:
    """`modules:` with slices of the vision tower: its count changes, that of the language model does not."""
    model = write(place / "m", MODELS["llava, old names"], 1)
    config = {
        "merge_method": "passthrough",
        "modules": {
            "vision_tower": {"slices": runs(model, (0, 3))},
            "default": {"models": [{"model": str(model)}]},
        },
    }
    suture.merge(config, place / "out")
    found = json.loads((place / "out" / "config.json").read_text())
    assert found["vision_config"]["num_hidden_layers"] == 3
    assert found["text_config"]["num_hidden_layers"] == 4
    assert suture.inspect(place / "out")["warnings"] == []


def test_modules_in_slices_are_the_whole_merge(place: Path) -> None:
    """Both stacks sliced, each as a module, and put together as they were: the whole merge, config and all."""
    a, b = (write(place / n, MODELS["llava, old names"], i) for i, n in enumerate("ab"))
    suture.merge({"merge_method": "linear", "models": entries(a, b)}, place / "whole")
    cuts = {"language_model": ([0, 2], [2, 4]), "vision_tower": ([0, 2], [2, 5])}
    modules: dict[str, Any] = {
        name: {"slices": [{"sources": entries(a, b, layer_range=r)} for r in cut]} for name, cut in cuts.items()
    }
    suture.merge({"merge_method": "linear", "modules": modules}, place / "out")
    assert read_checkpoint(place / "out") == read_checkpoint(place / "whole")
    assert (place / "out" / "config.json").read_text() == (place / "whole" / "config.json").read_text()


@pytest.mark.parametrize("cut", ["fewer", "more"])
def test_a_t5_of_one_count_keeps_its_encoders(cut: str, place: Path) -> None:
    """num_layers counts the encoder; a decoder without a count of its own gets one when it is cut."""
    beside.test_slices_change_the_counts_of_their_stack_alone("t5, one count for both", 0, cut, place)


def test_a_block_that_another_slice_brings_is_in_the_config(place: Path) -> None:
    """Next-token prediction that only the last slice's model has: either it is left out, or the config counts it."""
    model = MODELS["next-token prediction"]
    without = {n: raw for n, raw in tensors(model, 2).items() if not n.startswith("model.layers.3.")}
    first = write_checkpoint(place / "a", without, config={"model_type": "deepseek_v3", "num_hidden_layers": 3})
    last = write(place / "b", model, 1)
    slices = [*runs(first, (0, 3)), *runs(last, (0, 3))]
    suture.merge({"merge_method": "passthrough", "slices": slices}, place / "out")
    config = json.loads((place / "out" / "config.json").read_text())
    there = [n for n in read_checkpoint(place / "out") if n.startswith("model.layers.6.")]
    assert bool(there) == (config.get("num_nextn_predict_layers", 0) == 1)


@pytest.mark.parametrize("glob", ["glob:model.layers.*.mlp.*", r"regex:layers\.\d+\.mlp\."])
def test_modules_match_by_whole_names_as_filters_in_configs_do(glob: str, place: Path) -> None:
    """`--modules` matches as filters in configs do: a glob or an expression of a config is of the whole name."""
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight"]
    a, b = (
        write_checkpoint(place / n, {k: encode(np.full((2, 2), i), "F32") for k in names}) for i, n in enumerate("ab")
    )
    suture.swap(a, b, place / "out", layers="0", modules=glob)
    found, own = read_checkpoint(place / "out"), read_checkpoint(a)
    assert {n for n in names if found[n] != own[n]} == {names[0]}


@pytest.mark.parametrize("number", [0, 1])
def test_the_dry_run_and_the_report_of_a_merge_name_the_stack(number: int, place: Path) -> None:
    """Notes, dry run and report name the stack that slices are of, where there are several, as those of swaps do."""
    model = MODELS["llava, old names"]
    path = write(place / "m", model, 1)
    label = ("vision_tower", "language_model")[number]
    config = {"merge_method": "passthrough", "stack": label, "slices": runs(path, (0, 2))}
    for dry in (True, False):
        assert label in json.dumps(suture.merge(config, place / "out", dry_run=dry).data["notes"])


@pytest.mark.parametrize("verb", ["swap", "revert", "merge", "propose", "auto", "listed"])
def test_a_stack_that_is_not_there_is_a_mistake_in_what_was_asked(verb: str, place: Path) -> None:
    """`--stack nosuch` is exit 2 (UsageError) in every verb, and in a config with its line."""
    a, b, c = (write(place / n, MODELS["llava, old names"], i) for i, n in enumerate("abc"))
    (place / "config.yaml").write_text(
        json.dumps({"merge_method": "passthrough", "stack": "nosuch", "slices": runs(a, (0, 2))}, indent=1)
    )
    calls: dict[str, Callable[[], Any]] = {
        "swap": lambda: suture.swap(a, b, place / "out", layers="0", stack="nosuch"),
        "revert": lambda: suture.revert(b, a, place / "out", layers="0", stack="nosuch"),
        "merge": lambda: suture.merge(place / "config.yaml", place / "out"),
        "propose": lambda: suture.propose(c, a, b, stack="nosuch"),
        "auto": lambda: suture.swap(a, b, place / "out", base=c, auto="layer", stack="nosuch"),
        "listed": lambda: listed_layers(a, "nosuch:0"),
    }
    with pytest.raises(suture.UsageError) as e:
        calls[verb]()
    assert verb != "merge" or "config.yaml:3" in str(e.value)


@pytest.mark.parametrize("verb", ["swap", "colon", "auto", "propose", "listed", "merge"])
@pytest.mark.parametrize("asked", ["vision_model", "vision_tower.vision_model.encoder.layers", "vision_tower"])
def test_a_stack_has_the_same_names_in_every_verb(asked: str, verb: str, place: Path) -> None:
    """What `swap --stack` takes for a name (a word that one prefix holds, the prefix), all verbs take."""
    a, b, c = (write(place / n, MODELS["llava, old names"], i) for i, n in enumerate("abc"))
    config = {"merge_method": "passthrough", "stack": asked, "slices": runs(a, (0, 2))}
    calls: dict[str, Callable[[], Any]] = {
        "swap": lambda: suture.swap(a, b, place / "out", layers="0", stack=asked),
        "colon": lambda: suture.swap(a, b, place / "out", layers=f"{asked}:0"),
        "auto": lambda: suture.swap(a, b, place / "out", base=c, auto="layer", stack=asked),
        "propose": lambda: suture.propose(c, a, b, stack=asked),
        "listed": lambda: listed_layers(a, f"{asked}:0"),
        "merge": lambda: suture.merge(config, place / "out"),
    }
    found = calls[verb]()
    assert verb != "listed" or found == {"vision_tower:0"}


@pytest.mark.parametrize("text", ["0,vision_tower:1", "vision_tower:0,1"])
def test_bare_numbers_beside_a_stack_mean_one_thing(text: str, place: Path) -> None:
    """Bare numbers are the main stack's in `--frozen`: so in `--layers`, or it is refused."""
    a, b = (write(place / n, MODELS["llava, old names"], i) for i, n in enumerate("ab"))
    listed = listed_layers(a, text)
    try:
        suture.swap(a, b, place / "out", layers=text)
    except suture.UsageError:
        return
    moved(suture.diff(a, place / "out"), listed)


def test_a_donor_of_several_gives_layers_of_a_stack_by_its_name(place: Path) -> None:
    """`--from DONOR=encoder:0-3`: as with one donor, the list names the stack."""
    a, b, c = (write(place / n, MODELS["llava, old names"], i) for i, n in enumerate("abc"))
    suture.swap(a, {str(b): "vision_tower:0", str(c): "vision_tower:1-2"}, place / "out")
    suture.swap(a, {str(b): "0", str(c): "1-2"}, place / "named", stack="vision_tower")
    assert read_checkpoint(place / "out") == read_checkpoint(place / "named")


def test_the_note_on_what_is_outside_is_true_of_a_tower(place: Path) -> None:
    """Where layers of a tower move, the language model's embeddings and head stay, and no note says otherwise."""
    a, b = (write(place / n, MODELS["llava, old names"], i) for i, n in enumerate("ab"))
    report = suture.swap(a, b, place / "out", layers="0", stack="vision_tower", non_layer="from")
    found, own = read_checkpoint(place / "out"), read_checkpoint(a)
    head = "language_model.lm_head.weight"
    told = dict(report.data["notes"])["outside"]
    assert (found[head] == own[head]) == ("head" not in told)


# --- other names of one family -----------------------------------------------------------------------------------


@pytest.mark.parametrize("old_first", [False, True])
@pytest.mark.parametrize("work", ["slices", "stacked"])
def test_old_and_new_names_match_in_slices(work: str, old_first: bool, place: Path) -> None:
    """`language_model.model.layers.` and `model.language_model.layers.` are one stack, merged by slices and stacked."""

    def stacked(a: Path, b: Path, out: Path) -> None:
        suture.merge({"merge_method": "passthrough", "slices": [*runs(a, (0, 2)), *runs(b, (0, 2))]}, out)

    def sliced(a: Path, b: Path, out: Path) -> None:
        buffers.sliced([a, b], out)

    buffers.named_otherwise(old_first, {"slices": sliced, "stacked": stacked}[work], place)


# --- tied tensors ------------------------------------------------------------------------------------------------

#: Families whose table or head is not known by its name.
UNKNOWN = ["albert", "mamba", "xlm"]


@pytest.mark.parametrize("case", tied.RANDOM, ids=str)
@pytest.mark.parametrize("name", UNKNOWN)
def test_stored_twice_is_one_tensor_for_random_masks(name: str, case: Case, place: Path) -> None:
    """As in test_tied.py, for `predictions.decoder`, `backbone.embeddings` and `transformer.embeddings`."""
    tied.test_stored_twice_is_one_tensor_for_random_masks(name, case, place)


@pytest.mark.parametrize("first", ["tied", "untied"])
@pytest.mark.parametrize("verb", ["merge", "slices", "swap"])
@pytest.mark.parametrize("name", [*UNKNOWN, "distilbert"])
def test_tied_beside_untied_gives_a_config_that_admits_to_its_head(
    name: str, verb: str, first: str, place: Path
) -> None:
    """As in test_tied.py."""
    tied.test_tied_beside_untied_gives_a_config_that_admits_to_its_head(name, verb, first, place)


@pytest.mark.parametrize("name", ["albert", "distilbert"])
def test_a_head_that_a_swap_gives_to_a_tied_model_unties_it(name: str, place: Path) -> None:
    """As in test_tied.py."""
    tied.test_a_head_that_a_swap_gives_to_a_tied_model_unties_it(name, place)


@pytest.mark.parametrize("case", tied.RANDOM, ids=str)
@pytest.mark.parametrize("pattern", [(0, 1, 1, 1), (0, 0, 0, 1)], ids=str)
@pytest.mark.parametrize("name", ["llama", "bert", "t5", "vision and language, old names"])
def test_some_stored_once_and_some_twice_are_still_one_tensor(
    name: str, pattern: tuple[int, ...], case: Case, place: Path
) -> None:
    """Where all models tie, it does not matter which of them store the copy: the output ties too.

    A base that stores it once, as the hub has it, beside a fine-tune that stores it twice, is common.
    """
    tied.some_once_some_twice(name, pattern, case, place)


@pytest.mark.parametrize("verb", ["merge", "from", "mean"])
@pytest.mark.parametrize("name", ["llama", "bert", "whisper", "vision and language, old names"])
def test_two_tied_models_give_a_tied_one_however_they_are_stored(name: str, verb: str, place: Path) -> None:
    """A tied model stored once, with one stored twice: nothing is untied, in no config and in no warning."""
    family = tied.FAMILIES[name]
    once, twice = (tied.written(place, family, n, i, twice=i == 2) for i, n in ((1, "once"), (2, "twice")))
    if verb == "merge":
        report = suture.merge(tied.linear([once, twice]), place / "out")
    else:
        report = suture.swap(once, twice, place / "out", layers="0", non_layer=verb)
    found = read_checkpoint(place / "out")
    assert [n for n in family.copies if n in found and found[n] != found[family.table]] == []
    assert tied.ties(place / "out", family)
    assert not [w for w in report.warnings if "head" in w]


@pytest.mark.parametrize("verb", ["merge", "swap"])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_copies_of_a_shared_table_need_not_be_stored(name: str, verb: str, place: Path) -> None:
    """`encoder.embed_tokens` that one model stores and another does not is `shared`: no tensor is missing."""
    family = tied.FAMILIES[name]
    once, twice = (tied.written(place, family, n, i, twice=i == 2) for i, n in ((1, "once"), (2, "twice")))
    for i, models in enumerate(([once, twice], [twice, once])):
        out = place / f"out-{i}"
        if verb == "merge":
            suture.merge(tied.linear(models), out)
        else:
            suture.swap(models[0], models[1], out, layers="0", non_layer="from")
        found = read_checkpoint(out)
        assert [n for n in family.copies if n in found and found[n] != found[family.table]] == []
        assert tied.ties(out, family)


# --- files -------------------------------------------------------------------------------------------------------


def test_the_index_of_a_variant_is_not_the_models(place: Path) -> None:
    """model.safetensors beside sharded fp16 weights and model.fp16.safetensors.index.json is the model."""
    folder = write_checkpoint(place / "m", files.plain(1), config=files.CONFIG)
    files.sharded(folder, "model", ".fp16", 9)
    assert read_first(folder) == files.plain(1)["model.embed_tokens.weight"].data


def read_first(path: Path) -> bytes:
    return bytes(suture.open(path)["model.embed_tokens.weight"].tobytes())


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize(
    "page", ["\n  <!doctype HTML><html></html>", "\ufeff<!DOCTYPE html><html></html>", "\r\n\r\n<html>"]
)
def test_a_page_is_one_with_space_before_it(page: str, kind: str, place: Path) -> None:
    """An HTML page is named as such, with white space or a byte-order mark in front too."""
    (place / "m").mkdir()
    (place / "m" / "model.safetensors").write_text(page + " " * 100)
    with pytest.raises(suture.SutureError, match=r"(?i)html|web page"):
        suture.inspect(place / "m" if kind == "folder" else place / "m" / "model.safetensors")


def test_the_config_of_a_hubs_cache_is_the_snapshots(place: Path) -> None:
    """`inspect` of models--org--name tells the sizes of the snapshot's config.json, as of the snapshot itself."""
    found = suture.inspect(files.hub(place, {"aaa": 1}, "aaa"))
    assert found["config"] is not None
    assert found["config"]["num_hidden_layers"] == files.LAYERS


# --- agreement ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", agree.VERBS)
@pytest.mark.parametrize("nested", [False, True])
def test_scaled_positions_beside_none_are_told(nested: bool, verb: str, place: Path) -> None:
    """`rope_scaling: null` says something: it differs from YaRN's."""
    one, other = {"rope_scaling": None}, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    a, b = (agree.write(place, n, i, c, nested) for i, (n, c) in enumerate((("a", {}), ("b", other))))
    config = json.loads((a / "config.json").read_text())
    (config["text_config"] if nested else config).update(one)
    write_json(a / "config.json", config)
    report = agree.VERBS[verb](a, b, place / "out", suture.Settings())
    assert [w for w in report.warnings if "rope_scaling" in w]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("what", ["layer_types", "layer_types, linear"])
def test_layers_of_other_kinds_are_refused_in_slices_too(what: str, nested: bool, place: Path) -> None:
    """A slice that merges a full layer with a sliding or a linear one is refused, as in whole models."""
    a, b = (agree.write(place, n, i, c, nested) for i, (n, c) in enumerate(zip("ab", agree.BREAKS[what], strict=True)))
    with pytest.raises(suture.SutureError, match="kind"):
        agree.VERBS["slices"](a, b, place / "out", suture.Settings())
    report = agree.VERBS["slices"](a, b, place / "out", suture.Settings(allow_mixed=True))
    assert [w for w in report.warnings if "kind" in w]


# --- hostile -----------------------------------------------------------------------------------------------------

CHILD = """
import resource, sys, suture
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
a, b, out, verb = sys.argv[1:]
sources = [{"model": m, "layer_range": [0, 2], "parameters": {"weight": 0.5}} for m in (a, b)]
listed = [{"model": m, "parameters": {"weight": 0.5}} for m in (a, b)]
slices = [{"sources": [{"model": m, "layer_range": [0, 2]}]} for m in (a, b)]
try:
    if verb == "swap":
        suture.swap(a, b, out, layers="0")
    elif verb == "merge":
        suture.merge({"merge_method": "linear", "models": listed}, out)
    elif verb == "slices":
        suture.merge({"merge_method": "linear", "slices": [{"sources": sources}]}, out)
    else:
        suture.merge({"merge_method": "passthrough", "slices": slices}, out)
except suture.SutureError as e:
    print("refused", e)
"""


@pytest.mark.parametrize("verb", ["swap", "merge", "slices", "stacked"])
@pytest.mark.parametrize("counted", [10**9, 2**63], ids=["a billion", "2**63"])
def test_a_huge_count_takes_no_memory(counted: int, verb: str, place: Path) -> None:
    """A config that counts a billion layers, of files with three, is an error of ours or told.

    Now the process is killed for memory, or a MemoryError or an OverflowError comes out.
    """
    names = [f"model.layers.{i}.w.weight" for i in range(3)]
    config = {"model_type": "llama", "num_hidden_layers": counted}
    a, b = (
        write_checkpoint(place / n, {k: encode(np.full((2, 2), i), "F32") for k in names}, config=config)
        for i, n in enumerate("ab")
    )
    line = [sys.executable, "-c", CHILD, str(a), str(b), str(place / "out"), verb]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr[-300:]) == (0, "")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """20,000 stacks of one layer, and as many tensors outside."""
    folder, raw = tmp_path_factory.mktemp("many"), encode(np.ones(1), "F32")
    names = [f"s{i}.layers.0.w" for i in range(20_000)]
    names += [f"x{i}.w" for i in range(20_000)]
    both = [write_checkpoint(folder / n, dict.fromkeys(names, raw)) for n in "ab"]
    return both[0], both[1]


@pytest.mark.parametrize("verb", ["diff", "swap", "slices"])
def test_20000_stacks_take_no_time(verb: str, many: tuple[Path, Path], place: Path) -> None:
    """What is done once a stack is not done once a stack for every tensor: time grows with the size of the header."""
    a, b = many
    began = time.process_time()
    if verb == "diff":
        suture.diff(a, b)
    elif verb == "swap":
        suture.swap(a, b, place / "out", layers="0", stack="s7", non_layer="mean", dry_run=True)
    else:
        slices = [{"sources": entries(a, b, layer_range=[0, 1])}]
        suture.merge({"merge_method": "linear", "stack": "s7", "slices": slices}, place / "out", dry_run=True)
    # Seconds of a processor, which other work does not lengthen much; a whole merge of these takes two to four.
    assert time.process_time() - began < 8


def test_the_error_for_many_missing_tensors_comes_soon(tmp_path: Path) -> None:
    """20,000 heads that the other model lacks: the count is made in a pass, not in one for each."""
    raw = encode(np.ones(1), "F32")
    a = write_checkpoint(tmp_path / "a", dict.fromkeys((f"s{i}.lm_head.weight" for i in range(20_000)), raw))
    b = write_checkpoint(tmp_path / "b", dict.fromkeys((f"s{i}.wte.weight" for i in range(20_000)), raw))
    began = time.process_time()
    with pytest.raises(suture.SutureError):
        suture.merge({"merge_method": "linear", "models": entries(a, b)}, tmp_path / "out", dry_run=True)
    assert time.process_time() - began < 16


@pytest.mark.parametrize("verb", ["swap", "named", "listed", "bare"])
def test_a_list_of_20000_stacks_is_cut(verb: str, many: tuple[Path, Path], place: Path) -> None:
    """An error names the first stacks and how many more there are, as other lists do; 400 kB help nobody."""
    a, b = many
    calls: dict[str, Callable[[], Any]] = {
        "swap": lambda: suture.swap(a, b, place / "out", layers="0", dry_run=True),
        "named": lambda: suture.swap(a, b, place / "out", layers="0", stack="nosuch", dry_run=True),
        "listed": lambda: listed_layers(a, "nosuch:0"),
        "bare": lambda: listed_layers(a, "0"),
    }
    with pytest.raises(suture.SutureError) as e:
        calls[verb]()
    assert len(str(e.value)) < 10_000


def test_an_ignore_that_names_nothing_is_refused(place: Path) -> None:
    """Law 8: a filter that matches no tensor of any model is a slip, and not passed over."""
    names = [f"model.layers.{i}.w.weight" for i in range(2)]
    a, b = (
        write_checkpoint(place / n, {name: encode(np.full((2, 2), n == "a"), "F32") for name in names}) for n in "ab"
    )
    with pytest.raises(suture.UsageError, match="nosuch"):
        suture.swap(a, b, place / "out", layers="0", ignore="layers.1,nosuch")
    assert not (place / "out").exists()


def test_a_proposal_for_another_stack_is_a_config_for_it(place: Path) -> None:
    """What `init` makes of a proposal is the swap that was proposed, or refused, in every stack."""
    rng = np.random.default_rng(0)
    names = [f"visual.blocks.{i}.attn.w.weight" for i in range(3)] + [
        f"model.layers.{i}.mlp.w.weight" for i in range(4)
    ]
    names += ["visual.merger.weight", "model.embed_tokens.weight"]
    base = {n: rng.normal(size=(4, 4)).astype(np.float32) for n in names}
    paths = {"base": write_checkpoint(place / "base", {n: encode(v, "F32") for n, v in base.items()})}
    for who in ("into", "donor"):
        tuned = {n: encode(v + rng.normal(size=(4, 4)).astype(np.float32) * 0.1, "F32") for n, v in base.items()}
        paths[who] = write_checkpoint(place / who, tuned)
    for stack in ("visual", "model"):
        report = suture.swap(
            paths["into"], paths["donor"], place / f"swap-{stack}", auto="layer", base=paths["base"], stack=stack,
            non_layer="into",
        )  # fmt: skip
        assert report.proposal is not None
        config = place / f"{stack}.yml"
        plan = suture.swap(
            paths["into"], paths["donor"], place / "none", auto="layer", base=paths["base"], stack=stack,
            non_layer="into", dry_run=True,
        )  # fmt: skip
        assert plan.proposal is not None
        config.write_text(suture.init(proposal=plan.proposal, swap=plan.data["recipe"]["swap"]))
        suture.merge(config, place / f"merge-{stack}")
        swapped, merged = (read_checkpoint(place / f"{how}-{stack}") for how in ("swap", "merge"))
        assert swapped.keys() == merged.keys()
        for name, raw in swapped.items():
            assert np.allclose(raw.values(), merged[name].values(), atol=1e-6), name
