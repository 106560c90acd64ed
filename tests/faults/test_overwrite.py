"""The overwrite law: `--overwrite` deletes files of checkpoints; what else a folder holds is kept, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import suture

from ..support.checkpoints import write_checkpoint

AGAIN = suture.Settings(overwrite=True)
JOURNAL = ".suture-journal"
#: Files of checkpoints, by the names that transformers, sentencepiece, mergekit, peft and suture give them.
OF_CHECKPOINTS = [
    "model.safetensors", "model-00001-of-00002.safetensors", "model.fp16.safetensors", "pytorch_model.safetensors",
    "weights-00001-of-00001.safetensors", "model.safetensors.index.json", "consolidated.safetensors.index.json",
    "model.safetensors.index.fp16.json", "adapter_model.safetensors", "adapter_config.json", "config.json",
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "mergekit_config.yml",
]  # fmt: skip
#: What people keep beside their weights, by names that come near those above.
OF_PEOPLE = [
    "README.md", "notes.md", "thesis.txt", "thesis.json", "results.json", "my config.json", "CONFIG.JSON",
    "config.json~", "thesis.safetensors", "embeddings.safetensors", "my_model.safetensors",
    "thesis-1-of-x.safetensors", "prompt.jinja", "world.model", "vocab.docx", "tokenizer.py", "modeling_mine.py",
    "pytorch_model.bin", "optimizer.pt", "train.log", ".gitattributes", ".env", ".suture-journal.old",
    "outputs.json", "suture.yml", "model", "safetensors", "LICENSE", os.fsdecode(b"\xff.txt"), "a\nb.txt",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one tensor, with a side file in a folder."""
    folder = write_checkpoint(tmp_path_factory.mktemp("law") / "model", {"a": np.ones(3, np.float32)}, config={"x": 1})
    (folder / "templates").mkdir()
    (folder / "templates" / "chat.jinja").write_text("{{ x }}")
    (folder / "old.jinja").write_text("old")
    return folder


def merge(model: Path, out: Path, how: suture.Settings = AGAIN) -> None:
    """The simplest output there is."""
    suture.merge({"merge_method": "passthrough", "models": [{"model": str(model)}]}, out, settings=how)


def state(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Every path below a folder: its kind and mode, what a file holds, where a link leads."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        holds: bytes | str = b""
        if stat.S_ISLNK(mode):
            holds = os.readlink(path)
        elif stat.S_ISREG(mode):
            holds = path.read_bytes()
        found[str(path.relative_to(folder))] = (mode, holds)
    return found


def assert_kept(model: Path, out: Path, *says: str) -> None:
    """The output is refused, what is in the way is named, nothing in or around it has changed."""
    before = state(out.parent)
    with pytest.raises(suture.SutureError) as caught:
        merge(model, out)
    assert state(out.parent) == before
    for text in (str(out), *says):
        assert text in str(caught.value), str(caught.value)


def by_suture(out: Path, model: Path) -> None:
    """A finished output."""
    merge(model, out, suture.Settings())


def by_another(out: Path, model: Path) -> None:
    """A checkpoint that somebody else wrote."""
    write_checkpoint(out, {"b": np.ones(5, np.float32)}, shards=1, config={}, files={"tokenizer.json": "{}"})


def named(name: str) -> Callable[[Path], None]:
    """Puts a file of that name into a folder."""

    def put(out: Path) -> None:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"mine")

    return put


def linked(name: str) -> Callable[[Path], None]:
    """Puts a link to a file outside into a folder, under a name that could be a checkpoint's."""

    def put(out: Path) -> None:
        (out.parent / "outside").mkdir()
        (out.parent / "outside" / "kept").write_bytes(b"mine")
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(out.parent / "outside" / "kept")

    return put


def listing(*names: Any) -> Callable[[Path], None]:
    """Makes the folder's report list these files."""

    def put(out: Path) -> None:
        path = out / "suture.json"
        report = json.loads(path.read_text()) if path.exists() else {"suture": "0.1.0"}
        path.write_text(json.dumps(report | {"files": ["model.safetensors", "config.json", *names]}))

    return put


def piped(out: Path) -> None:
    """Puts a pipe in the report's place."""
    (out / "suture.json").unlink(missing_ok=True)
    os.mkfifo(out / "suture.json")


def emptied(out: Path) -> None:
    """Leaves nothing but a config."""
    for path in out.glob("*"):
        if path.is_file() and path.name != "config.json":
            path.unlink()
    shutil.rmtree(out / "templates", ignore_errors=True)


#: Things that stand in the way, and what the error names.
IN_THE_WAY: dict[str, tuple[Callable[[Path], object], str]] = {
    "notes": (named("notes.md"), "`notes.md`"),
    "card": (named("README.md"), "`README.md`"),
    "other_weights": (named("thesis.safetensors"), "`thesis.safetensors`"),
    "hidden": (named(".env"), "`.env`"),
    "escape": (named("a\x1b[2Jb"), "`a\x1b[2Jb`"),
    "folder_with_work": (named("runs/notes.txt"), "`runs`"),
    "folder_by_a_known_name": (named("vocab.txt.d/x"), "`vocab.txt.d`"),
    "empty_folder": (lambda out: (out / "empty").mkdir(), "`empty`"),
    "closed_folder": (lambda out: (out / "closed").mkdir(0), "`closed`"),
    "link": (linked("config.json"), "`config.json` is a link"),
    "dead_link": (lambda out: (out / "merges.txt").symlink_to("nowhere"), "`merges.txt` is a link"),
    "link_to_folder": (lambda out: (out / "vocab.json").symlink_to(out.parent), "`vocab.json` is a link"),
    "pipe": (lambda out: os.mkfifo(out / "vocab.txt"), "`vocab.txt` is no ordinary file"),
    "socket": (lambda out: os.mknod(out / "vocab.txt", stat.S_IFSOCK | 0o600), "`vocab.txt` is no ordinary file"),
    "folder_named_as_weights": (lambda out: (out / "model-1-of-1.safetensors").mkdir(), "is a folder"),
    "report_upwards": (listing("../outside.txt"), "`../outside.txt`"),
    "report_detour": (listing("x/../../outside.txt"), "outside.txt`"),
    "report_absolute": (listing("/etc/passwd"), "`/etc/passwd`"),
    "report_of_nothing": (listing(""), "suture.json"),
    "report_of_numbers": (listing(7), "`suture.json` is no report"),
    "report_unsound": (named("suture.json"), "`suture.json` is no report"),
    "report_a_pipe": (piped, "`suture.json` is no ordinary file"),
    "no_weights": (emptied, "holds no weights"),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
@pytest.mark.parametrize("writer", [by_suture, by_another])
def test_what_is_in_the_way_is_kept(
    kind: str, writer: Callable[[Path, Path], None], model: Path, tmp_path: Path
) -> None:
    """Laws 6 and 8: work beside a checkpoint is not deleted, and the error says which file it is."""
    out = tmp_path / "out"
    writer(out, model)
    put, says = IN_THE_WAY[kind]
    put(out)
    assert_kept(model, out, says)


def test_what_the_report_lists_goes(model: Path, tmp_path: Path) -> None:
    """A whole output is replaced, folders of side files and a journal left by a kill at the very end included."""
    out = tmp_path / "out"
    merge(model, out, suture.Settings())
    (out / JOURNAL).write_text("done\n")
    (model / "old.jinja").rename(tmp_path / "old.jinja")
    try:
        merge(model, out)
    finally:
        (tmp_path / "old.jinja").rename(model / "old.jinja")
    assert sorted(state(out)) == [
        "config.json",
        "model.safetensors",
        "suture.json",
        "templates",
        "templates/chat.jinja",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_work_in_a_listed_folder_is_kept(model: Path, tmp_path: Path) -> None:
    """A folder of which the report lists some files goes only if it holds nothing else."""
    out = tmp_path / "out"
    merge(model, out, suture.Settings())
    (out / "templates" / "mine.jinja").write_text("mine")
    assert_kept(model, out, "`templates/mine.jinja`")


def test_a_mergekit_card_goes_with_its_config(model: Path, tmp_path: Path) -> None:
    """README.md is mergekit's where its config lies beside it; by itself it may be anybody's."""
    out = tmp_path / "out"
    by_another(out, model)
    (out / "README.md").write_text("card")
    assert_kept(model, out, "`README.md`")
    (out / "mergekit_config.yml").write_text("{}")
    merge(model, out)
    assert not (out / "README.md").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_kept(model: Path, tmp_path: Path) -> None:
    """A folder that cannot be looked into may hold anything."""
    out = tmp_path / "out"
    by_another(out, model)
    out.chmod(0)
    with pytest.raises(suture.SutureError, match="list"):
        merge(model, out)
    out.chmod(0o755)
    assert "model.safetensors" in state(out)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    of_checkpoints=st.sets(st.sampled_from(OF_CHECKPOINTS), max_size=8),
    of_people=st.one_of(st.just(set()), st.sets(st.sampled_from(OF_PEOPLE), max_size=3)),
    listed=st.one_of(st.none(), st.sets(st.sampled_from([*OF_CHECKPOINTS, "notes.md", "sub/x.txt"]), max_size=12)),
    overwrite=st.booleans(),
)
def test_nothing_is_ever_lost(
    model: Path, of_checkpoints: set[str], of_people: set[str], listed: set[str] | None, overwrite: bool
) -> None:
    """Law 6: what goes was a checkpoint's, by its name or by the report; what is refused is left as it was."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        out.mkdir()
        for name in of_checkpoints | of_people:
            (out / name).write_bytes(os.fsencode(name))
        if listed is not None:
            (out / "suture.json").write_text(json.dumps({"files": sorted(listed)}))
        before = state(Path(folder))
        own = of_checkpoints if listed is None else {*listed, "suture.json"}
        if "mergekit_config.yml" in of_checkpoints and listed is None:
            own = own | {"README.md"}
        names = {path.name for path in out.iterdir()}
        weights = any(name.endswith(".safetensors") for name in names & own)
        free = names == set() or (overwrite and names <= own and weights)
        try:
            merge(model, out, suture.Settings(overwrite=overwrite))
        except suture.SutureError:
            assert not free
            assert state(Path(folder)) == before
        else:
            assert free
            assert [path.name for path in Path(folder).iterdir()] == ["out"]
            assert suture.verify(out)["differing"] == []
