"""Law: what is a name of a model is what the hub says, and nothing that could be a way to another folder."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suture import hub
from suture.errors import UsageError

NAMES = [
    "org/name", "gpt2", "Qwen/Qwen2.5-0.5B", "a/b", "_a/b_", "a-b.c/d_e-f.g", "x" * 96, "o" * 96 + "/" + "n" * 96,
    "org/name@main", "org/name@refs/pr/12", "org/name@v1.0", "gpt2@607a30d", "org/name@feature/a+b",
]  # fmt: skip
NONE = [
    "", "/", "a/", "/a", "./a", "../a", "a/..", "a/b/c", "~/a", "a b/c", "a\\b", "a--b/c", "a/b--c", "a..b/c", "a/.b",
    "a/b.", "-a/b", "a/b-", "a/b.git", "é/b", "x" * 97, "a/" + "x" * 97, "a/b\n", "a\0/b", "a/b@", "@main", "a/b@c@d",
    "a/b@../c", "a/b@/c", "a/b@c/", "a/b@.c", "a/b@c/../d", "a/b@c d", "a/b@c:d", "a/b@c\n", "a/b@c\\d", "a/b@-c",
    "a/b@" + "x" * 256, "https://example.org/a/b", "C:/a",
]  # fmt: skip


@pytest.mark.parametrize("text", NAMES)
def test_names_are_known(text: str) -> None:
    assert hub.looks_like_a_name(text)


@pytest.mark.parametrize("text", NONE)
def test_nothing_else_is(text: str) -> None:
    assert not hub.looks_like_a_name(text)


@given(st.text(st.sampled_from(string.ascii_letters + string.digits + "-_./@ é"), max_size=12))
def test_names_are_those_that_the_hubs_library_takes(text: str) -> None:
    """The oracle is the library's own rule."""
    validators = pytest.importorskip("huggingface_hub.utils")
    try:
        validators.validate_repo_id(text)
    except validators.HFValidationError:
        assert not hub.looks_like_a_name(text) or "@" in text
    else:
        # Older versions take letters of any alphabet.
        assert hub.looks_like_a_name(text) or not text.isascii()


def test_a_revision_is_split_off() -> None:
    assert hub.split("org/name") == ("org/name", None)
    assert hub.split("org/name@refs/pr/1") == ("org/name", "refs/pr/1")
    assert hub.split("gpt2@v1") == ("gpt2", "v1")
    for text, words in (("a/b@c@d", "more than one `@`"), ("a/b@", "a revision after `@`")):
        with pytest.raises(UsageError, match=words):
            hub.split(text)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc", "a/b@main", ""])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no name on a hub"):
        hub.find(name)


@pytest.mark.parametrize("revision", ["", "../../x", "/etc/passwd", "a/../b", "..", "a\0b"])
def test_what_is_no_revision_is_refused(revision: str) -> None:
    with pytest.raises(UsageError, match="is no revision"):
        hub.find("a/b", revision=revision)


def test_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="expected model, adapter, tokenizer, found `dataset`"):
        hub.find("a/b", kind="dataset")  # type: ignore[arg-type]
