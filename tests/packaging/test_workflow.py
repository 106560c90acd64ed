"""What can be said of the release workflow without running it, which nobody has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from .audit import ROOT

PATH = ROOT / ".github" / "workflows" / "release.yml"


def workflow() -> dict[str, Any]:
    # YAML reads the key `on` as a truth value.
    loaded = yaml.safe_load(PATH.read_text())
    assert isinstance(loaded, dict)
    return {("on" if key is True else key): value for key, value in loaded.items()}


def test_it_is_labelled_untried() -> None:
    """Nothing claims that it works before it has: neither the file nor the page that speaks of it."""
    assert PATH.read_text().startswith("# UNTRIED")
    assert "untried" in Path(ROOT / "CONTRIBUTING.md").read_text()


def test_every_action_is_pinned_to_a_version() -> None:
    """A release does not change because an action did: each is named with all three numbers."""
    used = [step["uses"] for job in workflow()["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", action)


def test_it_builds_for_the_four_platforms_by_make() -> None:
    """The wheels of a release are those of `make wheel`, which the tests know; only a Mac's may be missing."""
    job = workflow()["jobs"]["wheel"]
    platforms = {entry["platform"]: entry["may_fail"] for entry in job["strategy"]["matrix"]["include"]}
    assert platforms == {"linux-x86_64": False, "linux-aarch64": False, "macos-x86_64": True, "macos-arm64": True}
    assert "make wheel" in [step.get("run") for step in job["steps"]]


def test_only_a_tag_publishes_and_only_that_job_can() -> None:
    """No job but that of PyPI may ask for an identity, and it runs on tags alone, after the checksums."""
    found = workflow()
    assert found["on"]["push"] == {"tags": ["v*"]}
    assert found["permissions"] == {"contents": "read"}
    granted = {name: job["permissions"] for name, job in found["jobs"].items() if "permissions" in job}
    assert granted == {"pypi": {"id-token": "write"}, "github": {"contents": "write"}}
    for name in granted:
        assert found["jobs"][name]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert found["jobs"]["pypi"]["needs"] == "checksums"
