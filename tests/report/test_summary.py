"""The page begins with two sentences: what changed most and where, and what is proposed."""

from __future__ import annotations

import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.render.report import write_html
from suture.render.report.summary import summary

from ..support.checkpoints import llama_family
from .fake import comparison, proposal
from .test_page import HOSTILE, Page


def said(found: Any, proposed: Any = None) -> str:
    """The sentences as they are read."""
    return unescape(re.sub(r"<[^>]*>", "", summary(found, proposed)))


def test_they_are_the_first_words_of_the_page(tmp_path: Path) -> None:
    """Before any section: right behind the title and the base."""
    write_html(comparison(), tmp_path / "page.html", proposal=proposal())
    text = Page(tmp_path / "page.html").text
    assert text.index("<h1>") < text.index(summary(comparison(), proposal())) < text.index("<nav")
    assert said(comparison(), proposal()).count(". ") == 1


def test_what_changed_most_and_where() -> None:
    """The fine-tune, the cell inside the layers and the module outside of them that have the largest figures."""
    found = comparison(("math", "swahili"))
    first, second = found["models"]
    first["total"]["relative_l2"], second["total"]["relative_l2"] = 0.25, 0.5
    cells = {(c["layer"], c["module"]): c for c in second["cells"]}
    cells["3", "mlp.up_proj"]["relative_l2"] = 0.75
    cells["-", "model.norm"]["relative_l2"] = 0.625
    assert said(found, proposal()) == (
        "swahili changed most, by a relative change of 0.5 (math 0.25): inside the layers most in mlp.up_proj of layer "
        "3 (0.75), outside of them in model.norm (0.625). Proposed for a swap into math from swahili: take layers "
        "0-2,10-11 and blend layers 3,5-6,8; or, as edges, bottom 3 and top 2."
    )


def test_a_proposal_by_module_and_with_blends() -> None:
    """Blocks are called blocks; what is blended is told apart from what is taken."""
    proposed = proposal(3, by="module")
    for score, choice in zip(proposed["scores"], ("donor", "into", "blend", "blend", "into", "into"), strict=True):
        score["choice"] = choice
    assert "take blocks of layer 0 and blend blocks of layer 1;" in said(comparison(), proposed)
    for score in proposed["scores"]:
        score["choice"] = "into"
    assert "from swahili: take no layer;" in said(comparison(), proposed)


def test_without_a_proposal() -> None:
    """Two sentences all the same: the second is of the layers, or says that there is no proposal."""
    found = comparison(("math",))
    for i, row in enumerate(found["models"][0]["layers"]):
        row["relative_l2"] = 0.25 * (i + 1)
    text = said(found)
    assert text.startswith("math differs from its base by a relative change of ")
    assert text.endswith(". Of its layers, 11 changed most (3) and 0 least (0.25).")
    assert said(comparison(layers=0)).endswith("No swap is proposed: that takes two fine-tunes whose layers changed.")


@pytest.mark.parametrize("value", ["inf", "nan", math.inf, math.nan])
def test_figures_that_are_no_numbers(value: Any) -> None:
    """What is infinite, as over a base of zeros, is not what changed most, and harms nothing."""
    found = comparison(("math",), 3)
    for rows in ("cells", "layers"):
        found["models"][0][rows][0]["relative_l2"] = value
    assert "nan" not in said(found)
    assert "inf" not in said(found)
    found["models"][0]["total"]["relative_l2"] = value
    assert said(found).count(". ") == 1


def test_nothing_changed(tmp_path: Path) -> None:
    """Then that is said."""
    (base,) = llama_family(tmp_path, n=0, layers=2, hidden=8, heads=2, kv_heads=1, ff=12, vocab=10)
    assert said(suture.diff(base, base)).startswith("Nothing that is compared was changed in ")


def test_names_are_only_text() -> None:
    """Whatever a model or a module is called."""
    found = comparison((HOSTILE, "b"), 2)
    for model in found["models"]:
        for row in model["cells"]:
            row["module"] = HOSTILE
    markup = summary(found, {**proposal(2), "into": HOSTILE})
    assert set(re.findall(r"<(\w+)", markup)) == {"p", "strong", "code"}
    assert markup.isprintable()
