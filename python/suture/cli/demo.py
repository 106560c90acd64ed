"""``suture demo``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from suture.cli.options import background
from suture.errors import SutureError
from suture.render.terminal import emit_json, say
from suture.results import Comparison, Proposal


@click.command(short_help="Swap layers of three small models and test what comes out")
@click.argument("out", type=click.Path(path_type=Path), default="suture-demo")
@background
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def demo(out: Path, background: str | None, as_json: bool) -> None:
    """Take three small models through diff, swap, merge and a test; models and a report go to OUT, or suture-demo.

    The models come with the wheel: a base that knows two languages, a task expert tuned in language A, a language
    expert tuned on language B. The question: what can do the task in B, which none of them was taught?
    """
    from suture.demo import LANGUAGES, Experiment
    from suture.render.comparison import show_pairs
    from suture.render.heatmap import show_heat_map
    from suture.render.layout import room
    from suture.render.outcome import proposal_lines
    from suture.render.scores import show_scores

    begin = time.monotonic()
    experiment = Experiment(out)
    experiment.check()
    _check_page(out / "report.html")
    experiment.prepare()
    found = experiment.changes()
    proposal = experiment.proposal(found)
    if not as_json:
        _head("what did each expert change?  suture diff base task language --html report.html")
        for model in found["models"]:
            show_heat_map(found, model, "relative_l2", background)
        show_pairs(found)
        _head("which layers follow from that?  suture swap --into task --from language OUT --auto base --dry-run")
        for line in proposal_lines(proposal, room()):
            say(line)
        told = f"{experiment.problems:,} problems of `{experiment.operation}`, on numbers no training has seen"
        _head(f"what can do the task in {LANGUAGES[1]}?  {told}")
    outcomes = list(experiment.outcomes())
    page = _report(found, proposal, out / "report.html")
    if as_json:
        scores = [{"name": o.name, "made": o.made, "scores": dict(o.scores)} for o in outcomes]
        emit_json({"operation": experiment.operation, "proposal": proposal, "outcomes": scores, "report": page})
        return
    show_scores(outcomes, LANGUAGES)
    click.echo()
    say(f"models in {out}/; {page or 'no report.html: it takes the extra `report`'}")
    say(f"how the models were made, over five seeds: docs/layer-swapping.md ({time.monotonic() - begin:.1f} s)")


def _check_page(path: Path) -> None:
    """A page that is none of ours is in the way."""
    try:
        ours = b'content="suture ' in path.read_bytes()[:65536]
    except FileNotFoundError:
        return
    except OSError:
        ours = False
    if not ours:
        raise SutureError(f"{path}: exists and is no report of suture; give `suture demo` another folder", path)


def _report(found: Comparison, proposal: Proposal, path: Path) -> str | None:
    """Write the page; None if the extra it takes is not installed."""
    from suture.render.report import write_html

    try:
        write_html(found, path, proposal=proposal)
    except SutureError as e:
        if "report" not in str(e):
            raise
        return None
    return f"everything the diff found in {path}"


def _head(text: str) -> None:
    click.echo()
    say(text, bold=True)
