"""Law 7: what names of tensors, folders, tokens and configs say is shown, never obeyed, by every verb."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..support.checkpoints import Tensor, write_checkpoint, write_json

#: Clears the screen, names the window, rings, writes over the line, turns text round, ends lines, looks like markup,
#: and has a character that is not there.
EVIL = "\x1b[2J\x1b]0;x\x07\r\n\x9b1A\x7f\u202e\u2028[red]\ufeff\U000e0041"
SHOWN = "\\x1b[2J"
STYLE = re.compile(r"\x1b\[[0-9;]*m")


def tensors(value: float, **more: Tensor) -> dict[str, Tensor]:
    """A layer, an embedding, and what is nowhere else."""
    names = [f"model.layers.0.{EVIL}q_proj.weight", f"model.layers.1.{EVIL}.weight", f"{EVIL}model.embed_tokens.weight"]
    rng = np.random.default_rng(7)
    return {n: (rng.normal(size=(4, 4)) + value).astype(np.float32) for n in names} | more


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose every word is hostile: a base, two fine-tunes, one that lacks and has tensors, one with a NaN."""
    root = tmp_path_factory.mktemp("models")
    config = {"model_type": EVIL, "architectures": [EVIL], "num_hidden_layers": 2, "num_attention_heads": 2}
    integer = np.arange(3)
    made: dict[str, dict[str, Tensor]] = {
        "base": tensors(0.0),
        "one": tensors(0.25),
        "two": tensors(0.5),
        "odd": {k: v for k, v in tensors(0.25, **{EVIL: np.ones(2, np.float32)}).items() if "layers.1" not in k}
        | {f"{EVIL}model.embed_tokens.weight": np.ones((5, 4), np.float32)},
        "nan": {k: np.full((4, 4), np.nan, np.float32) for k in tensors(0.0)},
        "whole": tensors(0.0, **{f"{EVIL}.ids": integer}),
        "other": tensors(0.25, **{f"{EVIL}.ids": integer + 1}),
    }
    found = {}
    for name, content in made.items():
        found[name] = write_checkpoint(root / f"{name}{EVIL.replace('/', '')}", content, config=config)
        write_json(found[name] / "tokenizer.json", {"model": {"vocab": {EVIL + str(i): i for i in range(5)}}})
    return found


def calls(f: dict[str, Path], place: Path) -> dict[str, list[Any]]:
    """Every verb, with all it can print."""
    config = place / f"config{EVIL}.yml"
    merge = {
        "merge_method": "task_arithmetic",
        "base_model": str(f["base"]),
        "models": [{"model": str(f["one"]), "parameters": {"weight": [{"filter": EVIL + "?", "value": 1}, 0.5]}}],
        "exclude": ["embed"],
    }
    write_json(config, merge)
    write_json(place / "wrong.yml", merge | {EVIL: 1})
    write_json(
        place / "whole.yml",
        {
            "merge_method": "linear",
            "models": [{"model": str(f["whole"])}, {"model": str(f["other"])}],
            "parameters": {"weight": 1},
        },
    )
    documents = [merge | {"name": "a"}, merge | {"name": "b"}]
    (place / "several.yml").write_text("\n---\n".join(map(json.dumps, documents)))
    out = place / f"out{EVIL}"
    diff = ["diff", f["base"], f["one"]]
    tables = {f"diff by {by}": [*diff, "--by", by, "--tokens", "2"] for by in ("layer", "module", "tensor", "token")}
    swap = ["swap", "--into", f["one"], "--from", f["two"]]
    return {
        "inspect": ["inspect", f["base"]],
        "inspect all": ["inspect", f["base"], "--tensors", "--stats"],
        "inspect nothing": ["inspect", place / EVIL],
        "diff": diff,
        **tables,
        "diff several": [*diff, f["two"], "--spread"],
        "diff odd": ["diff", f["base"], f["odd"]],
        "diff odd by tensor": ["diff", f["base"], f["odd"], "--by", "tensor"],
        "diff frozen": [*diff, "--frozen", "0"],
        "diff stranger": ["diff", f["base"], f["other"], "--metric", EVIL],
        "merge dry": ["merge", config, out, "--dry-run", "-v"],
        "merge": ["merge", config, out, "-v"],
        "merge again": ["merge", config, out],
        "merge wrong": ["merge", place / "wrong.yml", out],
        "merge device": ["merge", config, out, "--device", EVIL, "--overwrite"],
        "merge several dry": ["merge", place / "several.yml", place / "both", "--dry-run", "-v"],
        "merge several": ["merge", place / "several.yml", place / "both", "-v"],
        "merge integers": ["merge", place / "whole.yml", place / "never"],
        "verify": ["verify", out],
        "verify damaged": ["verify", place / "r"],
        "swap dry": [*swap, place / "s", "--bottom", "1", "--dry-run", "-v"],
        "swap": [*swap, place / "s", "--layers", "0", "-v"],
        "swap auto": [*swap, place / "t", "--auto", f["base"], "--dry-run", "-v"],
        "swap odd": ["swap", "--into", f["one"], "--from", f["odd"], place / "u", "--layers", "0"],
        "swap nan": [
            "swap",
            "--into",
            f["one"],
            "--from",
            f["nan"],
            place / "u",
            "--layers",
            "0",
            "--blend",
            "0.5",
            "--transition",
            "0",
        ],
        "swap modules": [*swap, place / "u", "--layers", "0", "--modules", EVIL],
        "revert": ["revert", f["base"], f["one"], place / "r", "--layers", "1", "-v"],
        "revert dry": ["revert", f["base"], f["one"], place / "r2", "--layers", "1", "-v", "--dry-run"],
        "convert": ["convert", f["base"], place / "c", "-v"],
        "methods": ["methods", EVIL],
        "no verb": [EVIL],
        "no option": ["inspect", f["base"], f"--{EVIL}"],
    }


def damage(path: Path) -> None:
    """Change the last byte of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.fixture(scope="module")
def done(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, subprocess.CompletedProcess[str]]:
    """What each call says, one after the other."""
    place = tmp_path_factory.mktemp("place")
    found = {}
    for name, call in sorted(calls(folders, place).items(), key=lambda c: c[0] == "verify damaged"):
        if name == "verify damaged":
            damage(place / "r" / "model.safetensors")
        command = [sys.executable, "-m", "suture", *map(str, call)]
        run = subprocess.run(command, capture_output=True, timeout=120, check=False)
        found[name] = subprocess.CompletedProcess(command, run.returncode, run.stdout.decode(), run.stderr.decode())
    return found


def test_nothing_hostile_is_printed(done: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """Text on both streams holds nothing but characters that stand where they are put, and no traceback."""
    for name, run in done.items():
        assert "Traceback" not in run.stderr, (name, run.stderr)
        assert harmless(run.stdout), (name, run.stdout)
        assert harmless(run.stderr), (name, run.stderr)


def test_it_is_shown_instead(done: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """The names are there, written out: not one call but `verify` of what is whole has nothing to show."""
    for name, run in done.items():
        assert name == "verify" or SHOWN in run.stdout + run.stderr, (name, run)
    expected = {"inspect nothing": 1, "diff frozen": 1, "diff stranger": 2, "merge again": 1, "merge wrong": 2}
    expected |= {
        "swap odd": 1,
        "merge integers": 1,
        "methods": 2,
        "no verb": 2,
        "no option": 2,
        "merge": 0,
        "verify": 0,
    }
    expected |= {"merge several": 0, "swap": 0, "revert": 0, "convert": 0, "diff odd": 0, "inspect all": 0}
    assert {name: done[name].returncode for name in expected} == expected


def test_json_keeps_the_names_and_harms_nobody(folders: dict[str, Path], tmp_path: Path) -> None:
    """With `--json` the names are the same again when they are read, and harmless as text."""
    name = f"model.layers.0.{EVIL}q_proj.weight"
    told = {}
    for verb in (
        "inspect",
        "inspect all",
        "diff",
        "merge dry",
        "merge",
        "swap dry",
        "swap",
        "revert",
        "convert",
        "verify",
    ):
        command = [sys.executable, "-m", "suture", *map(str, calls(folders, tmp_path)[verb]), "--json"]
        run = subprocess.run(command, capture_output=True, timeout=120, check=False)
        assert harmless(run.stdout.decode()), verb
        assert harmless(run.stderr.decode()), verb
        told[verb] = json.loads(run.stdout)
    assert [t["name"] for t in told["inspect"]["tensors"]].count(name) == 1
    assert [t["name"] for t in told["diff"]["models"][0]["tensors"]].count(name) == 1
    assert [t["name"] for t in told["merge dry"]["tensors"]].count(name) == 1
    assert name in told["merge"]["tensors"]


@pytest.mark.parametrize(
    "verb", ["inspect all", "diff", "diff several", "diff by tensor", "diff odd", "merge dry", "swap auto"]
)
def test_a_terminal_gets_colours_of_ours_alone(verb: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The same where output is coloured: all that is not text is a style."""
    command = [sys.executable, "-m", "suture", *map(str, calls(folders, tmp_path)[verb])]
    main, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    seen = b""
    while True:
        try:
            part = os.read(main, 1 << 16)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(main)
    process.wait(timeout=60)
    text = STYLE.sub("", seen.decode().replace("\r\n", "\n"))
    # The progress bar moves the cursor and hides it, at the start and at the end.
    text = re.sub(r"\x1b\[(\?25[lh]|2K|1A)|\r", "", text) if verb != "merge dry" else text
    assert harmless(text), text
    assert "x1b[2J" in text.replace("\n", "")
