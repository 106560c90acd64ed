"""Law: command lines are those of the harnesses, quoted; tables hold their figures, parents against child."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.vocab_models import problems
from .test_commands import run


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_commands_are_quoted(tmp_path: Path) -> None:
    """A path with a blank stays one word; each model has a folder of results."""
    one = model(tmp_path / "my model")
    (line,) = suture.text.emit(one, harness="lm-eval", tasks=["xnli_sw", "arc_easy"], few_shot=5)
    assert shlex.split(line) == [
        "lm_eval", "--model", "hf", "--model_args", f"pretrained={one},dtype=bfloat16", "--tasks", "xnli_sw,arc_easy",
        "--batch_size", "auto", "--output_path", "results/my model", "--num_fewshot", "5",
    ]  # fmt: skip
    (line,) = suture.text.emit(one, harness="lighteval", tasks=["leaderboard|arc:challenge"])
    assert shlex.split(line)[2:4] == [f"model_name={one},dtype=bfloat16", "leaderboard|arc:challenge|0"]
    done = run("eval", one, "--emit", "lighteval", "--tasks", "leaderboard|arc:challenge")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, line, "")


def results(path: Path, figures: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"results": figures}))
    return path


def test_a_child_is_compared_with_the_best(tmp_path: Path) -> None:
    """By task and metric, with the standard error of the difference; what is not in all is told."""
    a = results(
        tmp_path / "a.json", {"xnli": {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.03}, "own": {"f1,none": 1}}
    )
    b = results(tmp_path / "b.json", {"xnli": {"acc,none": 0.6, "acc_stderr,none": 0.04}})
    child = tmp_path / "child"
    child.mkdir()
    results(child / "results_1.json", {"xnli": {"acc,none": 0.65, "acc_stderr,none": 0.03}})
    found = suture.text.table(a, b, child)
    assert not problems("eval", found)
    (row,) = found["tasks"]
    assert (row["metric"], row["values"], row["best"]) == ("acc", [0.5, 0.6, 0.65], str(b))
    assert row["difference"] == pytest.approx(0.05)
    assert row["difference_error"] == pytest.approx(math.hypot(0.03, 0.04))
    assert found["warnings"] == ["`own`: f1 is not in all results, and left out"]
    shown = run("eval", a, b, child, "--table")
    assert "0.0500 +-0.0500" in shown.stdout


def test_lower_is_better_where_the_harness_says_so(tmp_path: Path) -> None:
    """The best parent by a perplexity is the one with the lowest."""
    paths = []
    for name, value in (("a", 9.0), ("b", 12.0), ("child", 10.0)):
        said = {
            "results": {"wiki": {"word_perplexity,none": value}},
            "higher_is_better": {"wiki": {"word_perplexity": False}},
        }
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(said))
    (row,) = suture.text.table(*paths)["tasks"]
    assert (row["best"], row["difference"]) == (str(paths[0]), 1.0)


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    """One line each: no harness asked for, syntax that a path breaks, a file that is no result."""
    for arguments, said, code in (
        (["m"], "give --emit HARNESS", 2),
        ([model(tmp_path / "a,b"), "--emit", "lm-eval", "--tasks", "x"], "holds `,`", 2),
        ([tmp_path, "--emit", "lm-eval", "--tasks", "x"], "no folder with a config.json", 2),
        ([model(tmp_path / "m"), "--emit", "lm-eval"], "tasks: expected some, found none", 2),
        ([tmp_path / "m" / "config.json", "--table"], "no result of lm-eval or lighteval", 1),
        ([tmp_path / "none.json", "--table"], "cannot read", 2),
    ):
        done = run("eval", *arguments)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (code, 1), done.stderr
        assert said in done.stderr


def test_of_a_perplexity_the_least_is_best(tmp_path: Path) -> None:
    """By what the harness says, else by the name; and figures that are none are left out, and told."""
    files = []
    for i, (loss, score) in enumerate([(10.0, 0.5), (12.0, float("nan")), (11.0, 0.4)]):
        figures = {"wiki": {"word_perplexity,none": loss, "own,none": loss, "acc,none": score}}
        files.append(results(tmp_path / f"{i}.json", figures))
        said = {"results": figures, "higher_is_better": {"wiki": {"own": False}}}
        files[-1].write_text(json.dumps(said))
    found = suture.text.table(*files)
    assert [row["metric"] for row in found["tasks"]] == ["word_perplexity", "own"]
    assert [(row["best"], row["difference"]) for row in found["tasks"]] == [(str(files[0]), 1.0)] * 2
    assert found["warnings"] == ["`wiki`: acc is not in all results, and left out"]


def test_models_of_one_name_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of one are not the other's; a folder is named where the path does not, and a line is a command."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/model", "b/model", "c\nd"):
        model(Path(name))
    lines = suture.text.emit("a/model", "b/model", harness="lm-eval", tasks=["x"])
    assert [shlex.split(line)[-1] for line in lines] == ["results/a-model", "results/b-model"]
    monkeypatch.chdir(tmp_path / "a" / "model")
    assert shlex.split(suture.text.emit(".", harness="lighteval", tasks=["x"])[0])[-1] == "results/model"
    with pytest.raises(suture.UsageError, match="give the model another path"):
        suture.text.emit(tmp_path / "c\nd", harness="lm-eval", tasks=["x"])
