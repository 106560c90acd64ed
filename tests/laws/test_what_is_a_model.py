"""Which files of a folder are the model, what goes with it, and what is no model at all and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import suture

from ..support.checkpoints import INDEX_NAME, Raw, encode, parse_file, read_checkpoint, write_checkpoint, write_file
from ..support.checkpoints import write_json as write
from ..support.verbs import VERBS

LAYERS = 2
CONFIG = {"model_type": "llama", "num_hidden_layers": LAYERS}


def plain(seed: int) -> dict[str, Raw]:
    rng = np.random.default_rng(seed)
    names = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS))]
    return {n: encode(rng.normal(0, 1, (6, 8)), "F32") for n in names}


def index(folder: Path, name: str, files: Mapping[str, Mapping[str, Raw]]) -> None:
    """Files, and an index of them."""
    for file, tensors in files.items():
        write_file(folder / file, tensors)
    write(folder / name, {"metadata": {}, "weight_map": {n: f for f, tensors in files.items() for n in tensors}})


def halves(seed: int) -> tuple[dict[str, Raw], dict[str, Raw]]:
    tensors = list(plain(seed).items())
    return dict(tensors[:2]), dict(tensors[2:])


def sharded(folder: Path, stem: str, ending: str, seed: int) -> None:
    """Two shards with their index."""
    names = [f"{stem}-0000{i}-of-00002{ending}.safetensors" for i in (1, 2)]
    if ending:
        names = [f"{stem}{ending}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index(folder, f"{stem}{ending}.safetensors.index.json", dict(zip(names, halves(seed), strict=True)))


def beside_index(folder: Path) -> None:
    sharded(folder, "model", "", 9)


#: What may lie beside a model without being it, and whether it must be told.
BESIDE: dict[str, Callable[[Path], object]] = {
    "consolidated": lambda f: write_file(f / "consolidated.safetensors", plain(9)),
    "consolidated shards": lambda f: [
        write_file(f / f"consolidated-0000{i}-of-00002.safetensors", t) for i, t in enumerate(halves(9), 1)
    ],
    "consolidated shards with an index": lambda f: sharded(f, "consolidated", "", 9),
    "an adapter": lambda f: write_file(f / "adapter_model.safetensors", {"x.lora_A.weight": encode(np.ones(2), "F32")}),
    "a variant": lambda f: write_file(f / "model.fp16.safetensors", plain(9)),
    "a sharded variant without": lambda f: [
        write_file(f / f"model.fp16-0000{i}-of-00002.safetensors", t) for i, t in enumerate(halves(9), 1)
    ],
    "the index of a sharded variant as diffusers name it": lambda f: index(
        f,
        "model.safetensors.index.fp16.json",
        dict(zip((f"model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)), halves(9), strict=True)),
    ),
}
HOW = {"single": 1, "sharded": 2}


@pytest.mark.parametrize("shards", HOW)
@pytest.mark.parametrize("beside", BESIDE)
def test_what_lies_beside_a_model_does_not_join_it(beside: str, shards: str, place: Path) -> None:
    """consolidated.*, adapters and variants are not read with the model, and their indexes are not carried over."""
    folder = write_checkpoint(place / "m", plain(1), config=CONFIG, shards=HOW[shards])
    known = {p.name for p in folder.iterdir()}
    BESIDE[beside](folder)
    assert {n: np.asarray(v).tobytes() for n, v in dict(suture.open(folder)).items()} == {
        n: r.data for n, r in plain(1).items()
    }
    other = write_checkpoint(place / "other", plain(2), config=CONFIG)
    suture.swap(folder, other, place / "out", layers="0")
    assert read_checkpoint(place / "out").keys() == plain(1).keys()
    strays = {p.name for p in folder.iterdir()} - known
    assert not strays & {p.name for p in (place / "out").iterdir()}


@pytest.mark.parametrize("also", [None, *BESIDE])
def test_the_single_file_is_the_model_though_an_index_lists_shards(also: str | None, place: Path) -> None:
    """model.safetensors beside an index of other files: the single file, as loaders have it, with a warning."""
    folder = write_checkpoint(place / "m", plain(1), config=CONFIG)
    beside_index(folder)
    if also:
        BESIDE[also](folder)
    found = suture.inspect(folder)
    assert {t["name"] for t in found["tensors"]} == set(plain(1))
    assert [w for w in found["warnings"] if INDEX_NAME in w or "index" in w]
    assert np.array_equal(
        suture.open(folder)["model.embed_tokens.weight"], plain(1)["model.embed_tokens.weight"].values()
    )
    suture.swap(folder, write_checkpoint(place / "o", plain(2), config=CONFIG), place / "out", layers="0")
    assert not (place / "out" / INDEX_NAME).exists() or read_checkpoint(place / "out").keys() == plain(1).keys()


def test_an_index_that_lists_the_single_file_is_no_matter(place: Path) -> None:
    """An index of model.safetensors itself is that file, without a warning."""
    folder = write_checkpoint(place / "m", plain(1), config=CONFIG, index=True)
    assert suture.inspect(folder)["warnings"] == []


POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1337\n"
)
PAGES = (
    "<!DOCTYPE html>\n<html><head><title>Access denied</title></head></html>\n",
    "<html><body>404</body></html>",
)


def truncated(part: float) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        whole = write_file(Path(folder) / "x", plain(1)).read_bytes()
    return whole[: int(len(whole) * part)]


NO_MODEL: dict[str, tuple[bytes, str]] = {
    "a pointer": (POINTER.encode(), r"(?i)git.?lfs"),
    **{f"a page, {i}": (text.encode(), r"(?i)html|web page") for i, text in enumerate(PAGES)},
    **{f"truncated to {p}": (truncated(p), r"(?i)truncated|download|complete") for p in (0.99, 0.6, 0.1, 0.02)},
    "empty": (b"", r"(?i)empty|truncated|download|complete|0 bytes"),
}


@pytest.mark.parametrize("kind", ["file", "folder", "shard"])
@pytest.mark.parametrize("what", NO_MODEL)
def test_what_is_no_model_is_named_as_what_it_is(what: str, kind: str, place: Path) -> None:
    """A Git LFS pointer, a web page and a truncated download are called so, as a file, in a folder, as a shard."""
    content, pattern = NO_MODEL[what]
    if kind == "shard":
        folder = write_checkpoint(place / "m", plain(1), config=CONFIG, shards=2)
        (folder / "model-00002-of-00002.safetensors").write_bytes(content)
        path = folder
    else:
        (place / "m").mkdir()
        (place / "m" / "model.safetensors").write_bytes(content)
        path = place / "m" if kind == "folder" else place / "m" / "model.safetensors"
    with pytest.raises(suture.SutureError, match=pattern):
        suture.inspect(path)
    with pytest.raises(suture.SutureError, match=pattern):
        suture.swap(write_checkpoint(place / "o", plain(2)), path, place / "out", layers="0")


def test_an_index_that_is_a_pointer_is_named_so(place: Path) -> None:
    """Small files can be pointers too."""
    folder = write_checkpoint(place / "m", plain(1), config=CONFIG, shards=2)
    (folder / INDEX_NAME).write_text(POINTER)
    with pytest.raises(suture.SutureError):
        suture.inspect(folder)


def hub(place: Path, revisions: Mapping[str, int], main: str | None) -> Path:
    """A repository in a hub's cache: blobs, snapshots of links to them, refs."""
    repository = place / "hub" / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    for revision, seed in revisions.items():
        made = write_checkpoint(place / "made" / revision, plain(seed), config=CONFIG, shards=2)
        snapshot = repository / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for file in made.iterdir():
            blob = file.rename(repository / "blobs" / f"{revision}-{file.name}")
            (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    (repository / "refs").mkdir()
    if main is not None:
        (repository / "refs" / "main").write_text(main)
    return repository


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_hubs_cache_is_read_at_main(end: str, place: Path) -> None:
    """models--org--name/{refs,snapshots}: the snapshot that refs/main names, in every verb, config and all."""
    repository = hub(place, {"aaa": 1, "bbb": 2}, f"bbb{end}")
    found = suture.inspect(repository)
    assert [s["layers"] for s in found["stacks"] if s["main"]] == [LAYERS]
    other = write_checkpoint(place / "other", plain(3), config=CONFIG, files={"tokenizer_config.json": "{}"})
    suture.swap(repository, other, place / "out", layers="0")
    out = read_checkpoint(place / "out")
    assert out["model.layers.1.mlp.up_proj.weight"] == plain(2)["model.layers.1.mlp.up_proj.weight"]
    assert json.loads((place / "out" / "config.json").read_text())["num_hidden_layers"] == LAYERS
    suture.swap(other, repository, place / "out-2", layers="0", non_layer="from")
    merged = {"merge_method": "passthrough", "models": [{"model": str(repository)}]}
    suture.merge(merged, place / "out-3")
    assert read_checkpoint(place / "out-3") == plain(2)
    assert (place / "out-3" / "config.json").exists()
    one, two = (suture.diff(base, repository)["models"][0]["total"] for base in (other, place / "other"))
    assert one == two


def test_a_hubs_cache_of_one_snapshot_needs_no_refs(place: Path) -> None:
    """A lone snapshot is the model; of several without `refs/main` none is guessed."""
    assert suture.inspect(hub(place, {"aaa": 1}, None))["stacks"][0]["layers"] == LAYERS
    (place / "two").mkdir()
    with pytest.raises(suture.SutureError, match="aaa"):
        suture.inspect(hub(place / "two", {"aaa": 1, "bbb": 2}, None))


@pytest.mark.parametrize("main", ["../../../../etc", "/", "", "ccc", "\0", "x" * 5000])
def test_refs_of_a_hubs_cache_lead_nowhere_else(main: str, place: Path) -> None:
    """Hostile input: what `refs/main` holds names a snapshot or nothing."""
    repository = hub(place, {"aaa": 1, "bbb": 2}, main)
    write_checkpoint(place / "hub" / "etc", plain(5))
    with pytest.raises(suture.SutureError):
        suture.inspect(repository)


SAID = {
    "format": "pt",
    "modelspec.title": "A model",
    "modelspec.architecture": "stable-diffusion-xl",
    "sd_merge_recipe": '{"a": 1}',
    "sd_merge_models": "{}",
}


def said(path: Path) -> dict[str, str]:
    """What the files of an output say of themselves."""
    found: dict[str, str] = {}
    for file in sorted(path.glob("*.safetensors")):
        content = file.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        found |= header.get("__metadata__", {})
    return found


def with_metadata(folder: Path, seed: int, metadata: Mapping[str, str]) -> Path:
    folder.mkdir()
    write_file(folder / "model.safetensors", plain(seed), metadata)
    write(folder / "config.json", CONFIG)
    return folder


@pytest.mark.parametrize("shards", [None, 200])
@pytest.mark.parametrize("verb", VERBS)
def test_what_a_file_says_of_itself_is_carried_but_for_hashes(verb: str, shards: int | None, place: Path) -> None:
    """`__metadata__` of the recipient is the output's: format, modelspec, recipes; hashes of the contents are not."""
    hashes = {
        "modelspec.hash_sha256": "0xabc",
        "sshs_model_hash": "abc",
        "sshs_legacy_hash": "abc",
    }
    into = with_metadata(place / "a", 1, SAID | hashes)
    donor = with_metadata(place / "b", 2, {"format": "pt", "modelspec.title": "Another"})
    VERBS[verb](into, donor, place / "out")
    found = said(place / "out")
    assert {k: found.get(k) for k in SAID} == SAID
    assert not set(found) & set(hashes)


@pytest.mark.parametrize("verb", ["swap", "revert", "stack"])
def test_what_torchao_says_of_a_tensor_follows_its_layer(verb: str, place: Path) -> None:
    """Keys by tensor in `__metadata__` are those of the model that the layer comes from, by its new name."""
    name = "model.layers.{}.mlp.up_proj.weight"

    def made(folder: Path, who: str, seed: int) -> Path:
        keys = {
            name.format(i): json.dumps({"_type": "AffineQuantizedTensor", "who": f"{who}{i}"}) for i in range(LAYERS)
        }
        keys["model.embed_tokens.weight"] = json.dumps({"_type": "Tensor"})
        return with_metadata(folder, seed, {"format": "pt", "tensor_names": json.dumps(list(plain(1))), **keys})

    a, b = made(place / "a", "a", 1), made(place / "b", "b", 2)
    VERBS[verb](a, b, place / "out")
    found = said(place / "out")
    whose = {i: json.loads(found[name.format(i)])["who"] for i in range(LAYERS) if name.format(i) in found}
    assert whose == ({0: "b0", 1: "a1"} if verb != "stack" else {0: "a0", 1: "b0"})
    assert sorted(json.loads(found["tensor_names"])) == sorted(read_checkpoint(place / "out"))


def test_metadata_is_text_without_surprises(place: Path) -> None:
    """A file's own words are carried byte for byte, odd ones too."""
    odd = {"format": "pt", "note": '\u00e4\n\t"\\ \U0001f600', "": "empty", "x" * 300: "y" * 3000}
    into, donor = with_metadata(place / "a", 1, odd), with_metadata(place / "b", 2, {"format": "pt"})
    suture.swap(into, donor, place / "out", layers="0")
    found = said(place / "out")
    assert {k: found.get(k) for k in odd} == odd
    assert parse_file((place / "out" / "model.safetensors").read_bytes()).keys() == plain(1).keys()
