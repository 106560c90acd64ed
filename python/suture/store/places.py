"""URLs of models: what they are, and their parts."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from suture.errors import UsageError, near

#: What URLs of models begin with, before `://`, and whose they are.
SCHEMES = {
    "s3": "Amazon S3 and what speaks as it does",
    "gs": "Google Cloud Storage",
    "az": "Azure Blob Storage",
    "https": "a web server",
    "http": "a web server",
    "hf": "the Hugging Face hub",
}
_URL = re.compile(rf"({'|'.join(SCHEMES)})://", re.IGNORECASE)
#: Ends of the names of files of weights: such a URL is of one file, any other of a folder.
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt")


def is_url(text: str) -> bool:
    """Whether text begins as the URL of a model."""
    return _URL.match(text) is not None


def refuse_unknown(text: str) -> None:
    """Refuse what begins as a URL does, and is none of a model.

    Raises:
        UsageError: if it does, with the schemes there are.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9.-]*)://", text)
    if found is None or is_url(text):
        return
    known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
    path = "; a path is written without it" if found[1].lower() == "file" else near(found[1], SCHEMES)
    raise UsageError(f"`{text}`: {found[1]}:// is none of the schemes of models ({known}){path}")


@dataclass(frozen=True)
class Place:
    """A URL in parts.

    Attributes:
        scheme: what it begins with.
        root: bucket or container; of a web server its host with the port; of a hub ``org/name``.
        path: the folder or file inside, without slashes at its ends.
        revision: of a hub alone.
    """

    scheme: str
    root: str
    path: str
    revision: str | None = None

    @property
    def url(self) -> str:
        """As it is written."""
        name = f"{self.root}@{self.revision}" if self.revision else self.root
        return f"{self.scheme}://{name}" + (f"/{self.path}" if self.path else "")

    @property
    def name(self) -> str:
        """The last part."""
        return (self.path or self.root).rpartition("/")[2]

    @property
    def is_file(self) -> bool:
        """Whether it is of one file, by its name."""
        return self.path.endswith(WEIGHTS)


def place(url: str) -> Place:
    """A URL in parts.

    Raises:
        UsageError: if it is none, or has what is not read.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if not is_url(url) or not rest.strip("/"):
        raise UsageError(f"`{url}`: expected scheme://..., with one of {', '.join(SCHEMES)}")
    if scheme in ("http", "https") and ("?" in rest or "#" in rest or "@" in rest.partition("/")[0]):
        raise UsageError(f"`{url}`: a URL with a query, a fragment or a password is not read; give the plain address")
    if scheme in ("http", "https"):
        # Addresses of the web are written so; keys of stores are what they are.
        rest = urllib.parse.unquote(rest)
    if any(not c.isprintable() or c in '"\\' for c in rest):
        raise UsageError(f"`{url}`: has quotes, backslashes or controls in it, which are not read in URLs")
    root, _, path = rest.partition("/")
    path = "/".join(part for part in path.split("/") if part)
    if ".." in path.split("/"):
        raise UsageError(f"`{url}`: leads upwards; give the plain address")
    if scheme != "hf":
        if not root:
            raise UsageError(f"`{url}`: names no {'host' if scheme.startswith('http') else 'bucket'}")
        return Place(scheme, root, path)
    if root in ("models", "model"):
        root, _, path = path.partition("/")
    own, _, inside = path.partition("/")
    name, at, revision = f"{root}/{own}".partition("@")
    if not own or (at and not revision):
        raise UsageError(f"`{url}`: expected hf://org/name or hf://org/name@revision")
    return Place("hf", name, inside, revision or None)
