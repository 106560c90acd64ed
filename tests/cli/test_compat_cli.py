"""Law 8: `compat`, `init`, `schema` and `diff --recipes` as a user meets them: exit codes, streams, lines that fit."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ..support.checkpoints import llama_family, read_checkpoint, tree_digest, write_checkpoint
from ..support.terminal import cells, lines, shown


def run(*arguments: str | Path, cwd: Path | None = None, given: str = "") -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base, two fine-tunes, one whose layers mean something else, one of other names, and two outputs."""
    root = tmp_path_factory.mktemp("models")
    family = llama_family(root, layers=4, n=2, hidden=16, heads=2, kv_heads=1, ff=24, vocab=12)
    held = read_checkpoint(family[1])
    stated = json.loads((family[1] / "config.json").read_text()) | {"hidden_act": "gelu", "rope_theta": 5e5}
    other = {f"_orig_mod.{name}": raw for name, raw in held.items()}
    made = [
        write_checkpoint(root / "gelu", held, config=stated),
        write_checkpoint(root / f"compiled-{'and-compiled-' * 5}", other, config=stated),
    ]
    for bottom in (1, 2):
        swap: list[str | Path] = [
            "swap",
            "--into",
            family[1],
            "--from",
            family[2],
            root / f"out-{bottom}",
            "--bottom",
            str(bottom),
            "-q",
        ]
        assert run(*swap).returncode == 0
    return [*family, *made, root / "out-1", root / "out-2"]


def test_exit_codes_of_compat(models: list[Path], tmp_path: Path) -> None:
    """0 where something can be done, 1 where nothing can, 2 for a mistake; the answer is on stdout in any case."""
    base, one, two, gelu, compiled, *_ = models
    answers: list[tuple[list[Path], int, str]] = [
        ([base, one, two], 0, "merging: yes\n"),
        ([base, gelu], 1, "merging: no, because\n  activation: gelu, not silu"),
        ([base, compiled], 1, "by the prefix `_orig_mod.`"),
    ]
    for listed, code, said in answers:
        done = run("compat", *listed)
        assert (done.returncode, done.stderr) == (code, "")
        assert said in done.stdout
        assert run("compat", *listed, "--quiet").stdout == ""
        data = json.loads(run("compat", *listed, "--json").stdout)
        assert (data["merge"]["answer"] == data["swap"]["answer"] == "no") == bool(code)
    wrong: list[tuple[list[Path], int]] = [([base], 2), ([base, base], 2), ([base, tmp_path / "nowhere"], 1), ([], 2)]
    for listed, code in wrong:
        done = run("compat", *listed)
        assert (done.returncode, done.stdout) == (code, "")
        assert re.fullmatch(r"error: .*[^.]\n", done.stderr)


WIDTHS = (40, 80, 120, 200)
HOSTILE = "\x1b[2J\u202e" + "\u732b" * 20


@pytest.mark.parametrize("columns", WIDTHS)
def test_lines_fit(columns: int, models: list[Path], tmp_path: Path) -> None:
    """No line is wider than the terminal unless it is one word, however many models and whatever their names."""
    base, one, two, gelu, compiled, out, again = models
    hostile = write_checkpoint(tmp_path / HOSTILE, {HOSTILE: np.ones((2, 2), np.float32)})
    calls: list[list[str | Path]] = [
        ["compat", base, compiled], ["compat", base, one, two, gelu, compiled], ["compat", base, hostile],
        ["diff", out, again, "--recipes"], ["init", one, two, "-o", tmp_path / "m.yml"],
        ["swap", "--into", one, "--from", two, tmp_path / "s", "--auto", base, "--dry-run"],
    ]  # fmt: skip
    for call in calls:
        found = lines(shown(*call, columns=columns))
        assert found
        assert not any("Traceback" in line or "\x1b" in line for line in found)
        assert not [line for line in found if cells(line.rstrip()) > columns and len(line.split()) > 1]


def test_a_wide_terminal_is_used(models: list[Path]) -> None:
    """At 200 columns a row stands on one line, and so does what to do about it, which is below."""
    text = "\n".join(lines(shown("compat", models[0], models[3], columns=200)))
    assert re.search(r"activation +blocks +silu +gelu *\n", text)
    assert re.search(r"\n[^\n]*activation: `--allow-mixed` goes on\n", text)


def test_recipes_of_outputs(models: list[Path]) -> None:
    """By --recipes, or by naming the reports; counts first, twenty lines at most, and plain `diff` is what it was."""
    out, again = models[-2:]
    told = run("diff", out, again, "--recipes")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.splitlines() == [
        "39 tensors in both, 9 of them from elsewhere",
        "0 parameters differ, 1 other key of the recipe",
        "  swap.donors[0].bottom: 1, not 2",
        "  9 tensors from tuned-1, not from tuned-2, such as model.layers.1.input_layernorm.weight",
    ]
    assert run("diff", out / "suture.json", again / "suture.json").stdout == told.stdout
    assert len(json.loads(run("diff", out, again, "--recipes", "--json").stdout)["elsewhere"]) == 9
    plain = run("diff", out, again)
    assert "from elsewhere" not in plain.stdout
    assert plain.returncode == 0
    done = run("diff", out, again, out, "--recipes")
    assert (done.returncode, done.stderr) == (2, "error: --recipes compares two outputs, found 3\n")
    done = run("diff", models[0], out, "--recipes")
    assert done.returncode == 1
    assert "only outputs of suture say what they were made from" in done.stderr


def test_recipes_take_twenty_lines(models: list[Path], tmp_path: Path) -> None:
    """However much differs; the last line says how much more there is."""
    base, one, two, *_ = models
    for name, weight in (("one", 0.2), ("two", 0.4)):
        layers = {str(i): weight + i / 100 for i in range(4)}
        by_module = [{"filter": f"layers.{i}", "value": weight} for i in range(30)]
        listed = [
            {"model": str(m), "parameters": {"weight": [*by_module, {"value": {"layers": layers, "default": 1}}]}}
            for m in (base, one, two)
        ]
        (tmp_path / f"{name}.yml").write_text(json.dumps({"merge_method": "linear", "models": listed}))
        assert run("merge", tmp_path / f"{name}.yml", tmp_path / name, "-q").returncode == 0
    told = run("diff", tmp_path / "one", tmp_path / "two", "--recipes").stdout.splitlines()
    assert len(told) == 20
    assert re.fullmatch(r"\d+ more; --json has all", told[-1])


def test_init_then_merge(models: list[Path], tmp_path: Path) -> None:
    """What `init` writes is what `merge` runs; a file is never replaced unasked; - is stdout."""
    base, one, two, *_ = models
    call: list[str | Path] = ["init", one, two, "--base", base]
    done = run(*call, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "merge.yml: written, of 2 models; run it with `suture merge merge.yml OUT`\n"
    assert run("merge", "merge.yml", "out", cwd=tmp_path).returncode == 0
    again = run(*call, cwd=tmp_path)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert run(*call, "-o", "-").stdout == (tmp_path / "merge.yml").read_text()
    assert run(*call, "-o", tmp_path / "no" / "m.yml").returncode == 1
    assert run("init", one, "--method", "ties", "-o", "other.yml", cwd=tmp_path).returncode == 2


def proposing(base: Path, into: Path, donor: Path, out: Path) -> list[str | Path]:
    """A swap of the layers that are proposed."""
    return ["swap", "--into", into, "--from", donor, out, "--auto", base]


def test_a_proposal_goes_through_a_pipe(models: list[Path], tmp_path: Path) -> None:
    """`swap --auto --dry-run --json | init --from-proposal -`, and the command that is shown does the same."""
    base, one, two, *_ = models
    call = [*proposing(base, one, two, tmp_path / "out"), "--auto-by", "edges"]
    plan = run(*call, "--dry-run", "--json").stdout
    done = run("init", "--from-proposal", "-", cwd=tmp_path, given=plan)
    assert done.returncode == 0, done.stderr
    assert run("merge", "merge.yml", "merged", cwd=tmp_path).returncode == 0
    text = run(*call, "--dry-run", "--shard-size", "5GB").stdout
    found = re.search(r"  the same without --auto:\n    (suture swap .* --shard-size 5GB)\n", text)
    assert found
    words = shlex.split(found[1].replace(str(tmp_path / "out"), str(tmp_path / "again")))
    assert run(*words[1:]).returncode == 0
    assert run(*call).returncode == 0
    assert tree_digest(tmp_path / "again") == tree_digest(tmp_path / "out")


def test_what_no_command_says_is_said(models: list[Path], tmp_path: Path) -> None:
    """Where options cannot say what is proposed there is the reason instead."""
    base, one, two, *_ = models
    call = [*proposing(base, one, two, tmp_path / "out"), "--alpha", "0.3", "--dry-run"]
    text = run(*call, "--tau", "1").stdout
    assert "  no command without --auto says this: it blends " in text


def test_schemas_are_printed(tmp_path: Path) -> None:
    """JSON on stdout; a name that there is none of is a usage error."""
    done = run("schema", "config")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["title"] == "a merge config of suture"
    done = run("schema", "reports")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no schema of `reports`")
    assert not done.stderr.endswith(".\n")


@pytest.mark.parametrize("verb", ["compat", "init", "schema"])
def test_help_needs_nothing_heavy(verb: str) -> None:
    """Law 9: neither NumPy nor YAML for a verb's help."""
    code = (
        "import sys; from suture.cli import cli\n"
        f"try: cli.main([{verb!r}, '--help'])\n"
        "except SystemExit: print([m for m in ('numpy', 'yaml', 'torch', 'rich', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
