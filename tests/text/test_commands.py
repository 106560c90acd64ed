"""Law: the commands do what the functions do; pages and tables hold the figures; mistakes are one line."""

from __future__ import annotations

import csv
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import suture
from suture.cli import cli

from ..support.texts import laid, tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=cwd)


def test_loss_prints_what_the_function_returns(tmp_path: Path) -> None:
    """As JSON, as CSV and as a table; a child is compared."""
    one, two, text = tiny(tmp_path / "one"), tiny(tmp_path / "two", seed=1), laid(tmp_path / "texts")
    wanted = suture.text.loss(one, two, text=text)
    done = run("text", "loss", one, two, "--text", text, "--json", "--csv", tmp_path / "t.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(json.dumps(wanted))
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["bits"]) for r in rows] == [r["bits"] for r in wanted["losses"]]
    shown = run("text", "loss", one, two, "--text", text).stdout
    assert "child - best" in shown
    assert f"{wanted['losses'][0]['bits_per_byte']:.4f}" in shown


def test_similarity_prints_and_draws(tmp_path: Path) -> None:
    """A table a model, with baselines; a page that holds its figures and loads nothing."""
    pytest.importorskip("altair")
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "texts")
    page = tmp_path / "page.html"
    done = run("text", "similarity", model, "--parallel", text, "--metric", "mexa", "--html", page)
    assert done.returncode == 0, done.stderr
    assert "random states" in done.stdout
    written = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in written
    assert written.count("<section>") == 6
    row = suture.text.similarity(model, parallel_text=text)["layers"][0]
    assert f"<td>{row['cosine']:.4f}</td>" in written
    outside = re.sub(r"<script>.*?</script>", "", written, flags=re.DOTALL)
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=", outside)
    charts = json.loads(outside.split('id="data">')[1].split("</script>")[0])["charts"]
    svg = importlib.import_module("vl_convert").vegalite_to_svg
    assert all("<svg" in svg(chart) for chart in charts[:2])


def test_rank_and_script_gap_print(tmp_path: Path) -> None:
    """A row a language, and a row a layer."""
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "texts")
    ranked = run("text", "rank", model, "--parallel", text)
    assert ranked.returncode == 0, ranked.stderr
    assert len([line for line in ranked.stdout.splitlines() if re.match(r" +[12]  ", line)]) == 2
    gap = run("text", "script-gap", model, "--text", text / "sw.txt")
    assert gap.returncode == 0, gap.stderr
    assert "0.0000" in gap.stdout


def test_parquet_holds_what_csv_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every verb that writes tables, names of languages and numbers of layers included."""
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    tiny(tmp_path / "m")
    laid(tmp_path / "texts")
    (tmp_path / "forms.tsv").write_text("x\ty\n")
    gap = ["script-gap", "m", "--text", "texts/en.txt", "--romanise", "forms.tsv"]
    similar, text = (["m", "--parallel", "texts"], ["m", "--text", "texts"])
    for call in (["loss", *text], ["similarity", *similar], ["rank", *similar], ["influence", *text], gap):
        cli.main(["text", *call, "--quiet", "--csv", "t.csv", "--parquet", "t.parquet"], standalone_mode=False)
        with (tmp_path / "t.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [{k: str(v) for k, v in row.items()} for row in parquet.read_table("t.parquet").to_pylist()] == rows


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["loss", "MODEL", "--text", "none.txt"], "`none.txt`: no such file", 2),
        (["loss", "nothing", "--text", "TEXT"], "nothing", 1),
        (["similarity", "MODEL", "--parallel", "TEXT", "--pivot", "xx"], "no language `xx`", 2),
        (["rank", "MODEL", "--parallel", "TEXT", "--layers", "a"], "expected numbers and ranges", 2),
        (["lost", "MODEL"], "unknown verb `lost`; did you mean `loss`?", 2),
        (["loss", "MODEL", "--text", "TEXT", "--memory", "lots"], "expected a size", 2),
        (["loss", "nothing", "--text", "TEXT", "--csv", "none/t.csv"], "cannot write: its folder is not there", 1),
        (["influence", "nothing", "--text", "TEXT", "--gram", "none/g.safetensors"], "its folder is not there", 1),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], said: str, code: int) -> None:
    """With the exit code of their kind, and without a traceback."""
    named = {"MODEL": str(tiny(tmp_path / "m")), "TEXT": str(laid(tmp_path / "texts"))}
    done = run("text", *(named.get(a, a) for a in arguments), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("verb", "option", "key"),
    [("loss", "--text", "losses"), ("similarity", "--parallel", "layers"), ("rank", "--parallel", "languages"),
     ("influence", "--text", "layers")],
)  # fmt: skip
def test_tables_are_the_json(tmp_path: Path, verb: str, option: str, key: str) -> None:
    """CSV and Parquet have its rows, to the bit; a folder that is not there is told before anything is run."""
    read_table = pytest.importorskip("pyarrow.parquet").read_table
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "texts")
    flat, columns = tmp_path / "t.csv", tmp_path / "t.parquet"
    done = run("text", verb, model, option, text, "--json", "--csv", flat, "--parquet", columns)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [{k: v for k, v in row.items() if k != "by_layer"} for row in json.loads(done.stdout)[key]]
    assert read_table(columns).to_pylist() == rows
    with flat.open(newline="") as file:
        assert list(csv.DictReader(file)) == [{k: str(v) for k, v in row.items()} for row in rows]
    done = run("text", verb, model, option, text, "--csv", tmp_path / "no" / "t.csv")
    assert (done.returncode, "its folder is not there" in done.stderr) == (1, True)


def test_help_needs_no_torch() -> None:
    """Law 9: neither the group's help nor a verb's imports torch, transformers or numpy."""
    code = (
        "import sys; sys.argv = ['suture', 'text', 'loss', '--help']\nimport suture.start\n"
        "try: suture.start.main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
