"""The command line as a user meets it: help, exit codes, what goes where, colour, pipes, speed."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import suture

from ..support import terminal
from ..support.catalogue import grams
from ..support.checkpoints import Raw, encode, llama_family, read_checkpoint, write_checkpoint, write_file
from ..support.processes import start

VERBS = ("inspect", "diff", "swap", "merge", "methods", "verify")
WRITING = (
    "--memory",
    "--threads",
    "--io",
    "--dtype",
    "--shard-size",
    "--nan",
    "--overwrite",
    "--dry-run",
    "--quiet",
    "--verbose",
    "--json",
)
OPTIONS = {
    "inspect": ("--tensors", "--stats", "--json"),
    "diff": (
        "--by",
        "--sort",
        "--metric",
        "--heads",
        "--neurons",
        "--tokens",
        "--spread",
        "--above",
        "--csv",
        "--parquet",
        "--plot",
        "--html",
        "--frozen",
        "--trained",
        "--json",
    ),
    "swap": (
        "--into",
        "--from",
        "--bottom",
        "--top",
        "--transition",
        "--blend",
        "--layers",
        "--modules",
        "--non-layer",
        *WRITING,
    ),
    "merge": ("--seed", *WRITING),
    "methods": ("--json",),
    "verify": ("--json",),
}
ESCAPE = "\x1b["
SUTURE = [sys.executable, "-m", "suture"]


def run(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    return subprocess.run(
        [*SUTURE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
    )


def on_terminal(*arguments: str | Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The exit code and everything shown, run on a terminal of its own."""
    return terminal.run(*arguments, columns=120, env=env)


def one_error(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The error's text: one line, lower case, no full stop, nothing on stdout."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert not line.endswith(".")
    return line


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("family")
    base, first, second = llama_family(folder, layers=4, hidden=32, heads=4, kv_heads=2, ff=48, vocab=50, n=2, shards=2)
    config = folder / "merge.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "merge_method": "ties",
                "base_model": "base",
                "models": [
                    {"model": name, "parameters": {"weight": 0.5, "density": 0.5}} for name in ("tuned-1", "tuned-2")
                ],
                "dtype": "bfloat16",
            }
        )
    )
    return {"folder": folder, "base": base, "first": first, "second": second, "config": config}


def writing(family: dict[str, Path], verb: str) -> list[str | Path]:
    """A call of `verb`, short of its output folder."""
    if verb == "merge":
        return ["merge", family["config"]]
    return ["swap", "--into", family["base"], "--from", family["first"], "--bottom", "1", "--transition", "1"]


def test_help_lists_the_verbs_and_exit_codes() -> None:
    """`suture --help` says every verb in a line, and what the exit codes mean."""
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for verb in VERBS:
        assert re.search(rf"^  {verb}  +\w", done.stdout, re.MULTILINE)
    for code in ("0", "1", "2", "130"):
        assert code in done.stdout
    assert run("-h").stdout == done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb: str) -> None:
    """Every option of a verb is in its help, which fits a terminal; hidden options stay hidden."""
    done = run(verb, "--help", env={"COLUMNS": "100"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: suture {verb} ")
    for option in OPTIONS[verb]:
        assert re.search(rf"{option}\b", done.stdout), option
    assert "--chunk" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    """Law 9: `--help` loads neither numpy nor torch nor rich nor yaml, and is there at once."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['suture', '--help']\n"
        "try: runpy.run_module('suture', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(' '.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: suture" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert loaded & {"numpy", "torch", "transformers", "rich", "yaml", "safetensors"} == set()

    def once() -> float:
        start = time.perf_counter()
        run("--help")
        return time.perf_counter() - start

    assert min(once() for _ in range(3)) < 1.0


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuchverb"],
        ["inspect"],
        ["inspect", "a", "--nosuchoption"],
        ["diff", "a"],
        ["diff", "a", "b", "--by", "size"],
        ["diff", "a", "b", "--sort", "size"],
        ["swap", "out"],
        ["swap", "--into", "a", "--from", "b", "--bottom", "x", "out"],
        ["swap", "--into", "a", "--from", "b", "--non-layer", "c", "out"],
        ["merge"],
        ["merge", "a", "b", "--io", "uring"],
        ["merge", "a", "b", "--threads", "two"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str], tmp_path: Path) -> None:
    """Exit code 2; stderr ends in the error, stdout stays empty."""
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_nothing_asked_shows_the_help() -> None:
    """`suture` alone is a wrong use that shows the right one."""
    done = run()
    assert done.returncode == 2
    assert "Usage: suture" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bottom", "9"], "4 layers"),
        (["--blend", "7"], "blend"),
        (["--layers", "1-x"], "1-x"),
        (["--bottom", "1", "--memory", "1MiB"], "smallest that works"),
        (["--memory", "lots"], "lots"),
        (["--threads", "0"], "threads"),
        (["--shard-size", "-5"], "shard_size"),
        (["--dtype", "int4"], "int4"),
    ],
    ids=str,
)
def test_a_wrong_recipe(options: list[str], said: str, family: dict[str, Path], tmp_path: Path) -> None:
    """Exit code 2 and one line for what cannot be; nothing is written."""
    done = run("swap", "--into", family["base"], "--from", family["first"], tmp_path / "out", *options)
    assert said in one_error(done, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["inspect", "no/such"], ["diff", "no/such", "no/such"], ["verify", "no/such"], ["merge", "no/such.yml", "out"]],
    ids=" ".join,
)
def test_a_missing_file(arguments: list[str], tmp_path: Path) -> None:
    """Exit code 1 and one line that names the path."""
    assert "no/such" in one_error(run(*arguments, cwd=tmp_path), 1)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_config_says_where(family: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: a mistake in a config is found at its file and line, with the nearest valid name."""
    config = tmp_path / "bad.yml"
    config.write_text(family["config"].read_text().replace("density: 0.5", "densty: 0.5", 1))
    line = next(n for n, text in enumerate(config.read_text().splitlines(), 1) if "densty" in text)
    told = one_error(run("merge", config, tmp_path / "out", cwd=family["folder"]), 2)
    assert f"{config}:{line}: " in told
    assert "`density`" in told


def test_an_output_that_exists_is_kept(family: dict[str, Path], tmp_path: Path) -> None:
    """Law 6: a finished output is refused without `--overwrite`, and replaced whole with it; a note beside it never."""
    call = [*writing(family, "swap"), tmp_path / "out"]
    assert run(*call).returncode == 0
    assert "--overwrite" in one_error(run(*call), 1)
    note = tmp_path / "out" / "note.txt"
    note.write_text("mine")
    for options in ([], ["--overwrite"]):
        one_error(run(*call, *options), 1)
        assert note.read_text() == "mine"
    note.unlink()
    assert run(*call, "--overwrite", "--shard-size", "1GB").returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_json_is_alone_on_stdout(family: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: with `--json` stdout is one JSON document, strictly, and everything else is on stderr."""
    out = tmp_path / "out"
    calls: list[list[str | Path]] = [
        ["inspect", family["base"]],
        ["inspect", family["base"], "--tensors", "--stats"],
        ["diff", family["base"], family["first"]],
        ["diff", family["base"], family["first"], "--by", "layer", "--sort", "l2"],
        [*writing(family, "swap"), out, "--dry-run"],
        [*writing(family, "swap"), out, "-v"],
        [*writing(family, "merge"), tmp_path / "merged"],
        ["methods"],
        ["methods", "ties"],
        ["verify", out],
    ]
    for call in calls:
        done = run(*call, "--json")
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert done.stderr == "", call
    report = json.loads(run("verify", out, "--json").stdout)
    assert report["differing"] == []


def test_warnings_do_not_mix_with_json(family: dict[str, Path], tmp_path: Path) -> None:
    """A warning is on stderr and in the report; stdout stays JSON."""
    done = run("swap", "--into", family["base"], "--from", family["base"], tmp_path / "out", "--bottom", "1", "--json")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: ")
    (warning,) = json.loads(done.stdout)["warnings"]
    assert warning in done.stderr


def test_quiet_is_silent(family: dict[str, Path], tmp_path: Path) -> None:
    """`--quiet` says nothing but errors, on either stream."""
    out = tmp_path / "out"
    calls: list[list[str | Path]] = [
        ["inspect", family["base"]],
        ["diff", family["base"], family["first"]],
        [*writing(family, "swap"), out],
        [*writing(family, "merge"), tmp_path / "merged"],
        ["swap", "--into", family["base"], "--from", family["base"], tmp_path / "same", "--bottom", "1"],
        ["verify", out],
    ]
    for call in calls:
        done = run(*call, "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), call
        assert on_terminal(*call, "--quiet", "--overwrite" if call[0] in ("swap", "merge") else "-q") == (0, "")
    assert one_error(run("inspect", tmp_path / "none", "--quiet"), 1)


@pytest.mark.parametrize("verb", ["swap", "merge"])
def test_a_finished_run_is_told_on_stderr(verb: str, family: dict[str, Path], tmp_path: Path) -> None:
    """The summary of a run is no data: it is on stderr, and names what was done and where."""
    done = run(*writing(family, verb), tmp_path / "out", "-v")
    assert (done.returncode, done.stdout) == (0, "")
    assert str(tmp_path / "out") in done.stderr
    for name in read_checkpoint(tmp_path / "out"):
        assert name in done.stderr
    if verb == "swap":
        assert "--non-layer into" in done.stderr


@pytest.mark.parametrize("verb", ["swap", "merge"])
def test_a_dry_run_writes_nothing(verb: str, family: dict[str, Path], tmp_path: Path) -> None:
    """The plan, from headers only: bytes to read and write, peak memory, with `-v` every tensor; no file."""
    out = tmp_path / "deep" / "out"
    done = run(*writing(family, verb), out, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    for said in ("read", "write", "peak memory", "plan", "39 tensors"):
        assert said in done.stdout
    names = list(read_checkpoint(family["base"]))
    assert not any(name in done.stdout for name in names)
    verbose = run(*writing(family, verb), out, "--dry-run", "-v")
    for name in names:
        assert name in verbose.stdout
    plan = json.loads(run(*writing(family, verb), out, "--dry-run", "--json").stdout)
    assert list(tmp_path.iterdir()) == []
    assert len(plan["tensors"]) == len(names)

    report = json.loads(run(*writing(family, verb), tmp_path / "out", "--json").stdout)
    assert plan["hash"] == report["plan"]
    assert plan["hash"] in done.stdout
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert plan["write_bytes"] == written
    sizes = {name: len(raw.data) for name, raw in read_checkpoint(family["base"]).items()}
    blended = sum(size for name, size in sizes.items() if "layers.1." in name)
    whole = sum(sizes.values())
    # With nothing to trim, at density 1, ties reads every input once.
    assert plan["read_bytes"] == (3 * whole if verb == "merge" else whole + blended)
    assert 2**20 < plan["budget"]["peak_bytes"] < 2**30


def test_a_dry_run_needs_headers_only(tmp_path: Path) -> None:
    """The plan is made of headers: models whose data are holes of 300 GB are planned at once."""
    for name in ("into", "donor"):
        header: dict[str, Any] = {}
        at = 0
        for layer in range(10):
            size = 15 * 10**9 * 2
            header[f"model.layers.{layer}.w"] = {
                "dtype": "BF16", "shape": [15 * 10**9], "data_offsets": [at, at + size]
            }  # fmt: skip
            at += size
        text = json.dumps(header).encode()
        with (tmp_path / f"{name}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + at)
    into, donor = tmp_path / "into.safetensors", tmp_path / "donor.safetensors"
    done = run("swap", "--into", into, "--from", donor, tmp_path / "out", "--bottom", "2", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["read_bytes"] == 10 * 30 * 10**9
    assert any("disk" in warning for warning in plan["warnings"])
    assert "disk" in one_error(run("swap", "--into", into, "--from", donor, tmp_path / "out", "--bottom", "2"), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["donor.safetensors", "into.safetensors"]


def test_colour_is_for_terminals(family: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: colour on a terminal, none in a pipe, none with NO_COLOR."""
    calls: list[list[str | Path]] = [
        ["methods"],
        ["methods", "ties"],
        ["inspect", family["base"], "--tensors"],
        ["diff", family["base"], family["first"], "-q"],
        ["inspect", tmp_path / "none"],
    ]
    for call in calls:
        piped = run(*call)
        assert ESCAPE not in piped.stdout + piped.stderr
    heat: list[str | Path] = ["diff", family["base"], family["first"]]
    assert "\x1b[30;48;" in on_terminal(*heat)[1] or "48;2;" in on_terminal(*heat)[1]
    assert "\x1b[1m" in on_terminal("methods")[1]
    colours = re.compile(r"\x1b\[[0-9;]*m")
    for call in calls:
        code, shown = on_terminal(*call, env={"NO_COLOR": "1"})
        assert code == run(*call).returncode
        assert not colours.search(shown), call
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", on_terminal(*heat, env={"NO_COLOR": "1"})[1])


def test_the_progress_bar_is_for_terminals(family: dict[str, Path], tmp_path: Path) -> None:
    """The bar is on a terminal only, and leaves the data alone when stdout is not one."""
    code, shown = on_terminal(*writing(family, "merge"), tmp_path / "shown")
    assert code == 0
    assert "merging" in shown
    with (tmp_path / "report.json").open("w") as stdout:
        ours, theirs = pty.openpty()
        done = subprocess.run(
            [*SUTURE, *map(str, writing(family, "merge")), str(tmp_path / "out"), "--json"],
            stdout=stdout,
            stderr=theirs,
            timeout=60,
            check=False,
        )
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 0
    assert json.loads((tmp_path / "report.json").read_text())["plan"]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose description is longer than any pipe holds."""
    path = tmp_path_factory.mktemp("long") / "model.safetensors"
    return write_file(path, {f"model.layers.{n}.weight": Raw("F32", (0,), b"") for n in range(3000)})


@pytest.mark.parametrize(
    "options",
    [["--tensors"], ["--json"], ["--tensors", "--stats"]],
    ids=" ".join,
)
def test_a_reader_that_leaves_is_no_error(options: list[str], long: Path) -> None:
    """`| head -1`: the first line comes, the rest goes nowhere, and nobody sees a traceback."""
    child = subprocess.Popen(
        [*SUTURE, "inspect", str(long), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait(timeout=60) in (0, 128 + signal.SIGPIPE, -signal.SIGPIPE)


@pytest.mark.parametrize("arguments", [["methods"], ["methods", "--json"], ["--help"]], ids=" ".join)
def test_a_reader_that_was_never_there(arguments: list[str]) -> None:
    """A pipe closed before the first byte is no error either."""
    reading, writing_end = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*SUTURE, *arguments], stdout=writing_end, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writing_end)
    assert done.stderr == ""
    assert done.returncode in (0, 128 + signal.SIGPIPE, -signal.SIGPIPE)


@pytest.mark.parametrize("verb", ["methods", "inspect", "diff"])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
def test_a_full_disk_under_stdout_is_an_error(verb: str, options: list[str], family: dict[str, Path]) -> None:
    """Law 8: what cannot be printed is one line on stderr and exit code 1, not a traceback."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    models = {"methods": [], "inspect": [family["base"]], "diff": [family["base"], family["first"]]}[verb]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*SUTURE, verb, *map(str, models), *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


def test_inspect_tells_what_is_there(family: dict[str, Path]) -> None:
    """Path, tensors, sizes, layers and config at a glance; `--tensors` and `--stats` go further."""
    done = run("inspect", family["base"])
    assert (done.returncode, done.stderr) == (0, "")
    for said in (str(family["base"]), "39 tensors", "2 files", "layers", "4 of model.layers.", "BF16", "llama"):
        assert said in done.stdout
    lines = run("inspect", family["base"], "--tensors").stdout.splitlines()
    listed = {line.split()[0]: line.split()[1:3] for line in lines if "." in line.split()[0]}
    for name, raw in read_checkpoint(family["base"]).items():
        assert listed[name] == [raw.dtype, "x".join(map(str, raw.shape))]
    assert "nan/inf" in run("inspect", family["base"], "--stats").stdout


def test_diff_draws_layers_by_modules(family: dict[str, Path], tmp_path: Path) -> None:
    """The map has a row for every layer, a column for every module, and a mark that grows with the change."""
    base, tuned = {}, {}
    for layer in range(12):
        for module in ("q_proj", "up_proj"):
            name = f"model.layers.{layer}.{module}.weight"
            base[name] = encode(np.ones(64, np.float32), "F32")
            tuned[name] = encode(np.full(64, 1 + layer / 100, np.float32), "F32")
    first, second = (write_file(tmp_path / f"{n}.safetensors", t) for n, t in (("a", base), ("b", tuned)))
    done = run("diff", first, second, "--metric", "mean_abs")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line for line in done.stdout.splitlines() if re.match(r"\s+\d+ ", line)]
    assert [int(row.split()[0]) for row in rows] == list(range(12))
    assert "q_proj" in done.stdout
    assert "up_proj" in done.stdout
    marks = [row.split()[-1] if len(row.split()) > 3 else "" for row in rows]
    assert marks[-1] == "@"
    assert marks[1] != marks[-1]
    done = run("diff", family["base"], family["first"])
    for said in ("39 tensors", "1 equal", "relative_l2", "embed_tokens", "lm_head"):
        assert said in done.stdout


def test_methods_are_listed_and_described() -> None:
    """Every method in a line; one method with formula, parameters, paper and an example that is a config."""
    listed = run("methods").stdout.splitlines()
    specs = json.loads(run("methods", "--json").stdout)
    assert [line.split()[0] for line in listed] == [spec["name"] for spec in specs]
    for spec in specs:
        shown = run("methods", spec["name"]).stdout
        for parameter in spec["parameters"]:
            assert f"  {parameter['name']} (" in shown
        example = yaml.safe_load(shown.split("example:\n")[1])
        assert example["merge_method"] == spec["name"]
        assert len(example["models"]) >= 1
    told = one_error(run("methods", "tise"), 2)
    assert "`ties`" in told
    assert json.loads(run("methods", "ties", "--json").stdout) == next(s for s in specs if s["name"] == "ties")


@pytest.mark.parametrize("method", [spec["name"] for spec in suture.methods()])
def test_the_example_of_a_method_runs(method: str, family: dict[str, Path], tmp_path: Path) -> None:
    """What `suture methods NAME` shows is a config that works once its paths are there."""
    example = run("methods", method).stdout.split("example:\n")[1]
    paths = {"path/to/base": "base", "path/to/expert-1": "first", "path/to/expert-2": "second"}
    paths |= {"path/to/squared-gradients-1": "first", "path/to/squared-gradients-2": "second"}
    paths |= {"path/to/masks-1": "first", "path/to/masks-2": "second"}
    for shown, key in paths.items():
        example = example.replace(shown, str(family[key]))
    for i, key in enumerate(("first", "second"), 1):
        example = example.replace(f"path/to/gram-matrices-{i}", str(grams(family[key])))
    (tmp_path / "example.yml").write_text(example)
    done = run("merge", tmp_path / "example.yml", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(tmp_path / "out").keys() == read_checkpoint(family["base"]).keys()


def test_an_interrupt_is_told_and_resumed(tmp_path: Path) -> None:
    """Exit code 130 within a second or so, a line that says how to go on, and no output folder."""
    rng = np.random.default_rng(4)
    models = []
    for name in ("base", "first", "second"):
        noise = rng.integers(0, 0x3F80, 2**21, dtype=np.uint16).tobytes()  # non-negative and finite
        layers = {f"model.layers.{layer}.w.weight": Raw("BF16", (2048, 1024), noise) for layer in range(14)}
        models.append(write_checkpoint(tmp_path / "in" / name, layers))
    config = tmp_path / "merge.json"
    config.write_text(
        json.dumps(
            {
                "merge_method": "ties",
                "base_model": str(models[0]),
                "models": [{"model": str(m), "parameters": {"weight": 1, "density": 0.5}} for m in models[1:]],
            }
        )
    )
    command = ["merge", str(config), str(tmp_path / "out")]
    slow = ["--threads", "1", "--chunk", "16KiB", "--io", "pread"]
    child = start([*SUTURE, *command, *slow])
    deadline = time.monotonic() + 30
    while not (tmp_path / ".out.suture-partial").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGINT)
    sent = time.monotonic()
    stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stdout) == (130, "")
    assert time.monotonic() - sent < 5
    assert stderr.strip().startswith("error: interrupted")
    assert not (tmp_path / "out").exists()
    assert run(*command).returncode == 0
    suture.merge(json.loads(config.read_text()), tmp_path / "undisturbed")
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(tmp_path / "undisturbed")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_as_the_readme_has_it(shell: str) -> None:
    """What a shell evaluates at its start is a completion script."""
    call = [sys.executable, "-m", "suture"]
    env = os.environ | {"_SUTURE_COMPLETE": f"{shell}_source"}
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_SUTURE_COMPLETE" in done.stdout
