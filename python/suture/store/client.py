"""Clients of stores, by obstore: one for each bucket or server, with the credentials and endpoints of its users."""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta
from functools import cache
from typing import Any

from suture.errors import SutureError, UsageError
from suture.store import credentials

#: Tries of one request that obstore makes by itself, and for how long; further tries of what breaks later are ours.
_RETRIES = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=8), "base": 2},
}

#: What says which store of a kind is meant.
_WHERE = ("endpoint", "account_name", "azure_storage_account_name", "base_url")


@cache
def library() -> Any:
    """obstore.

    Raises:
        UsageError: if it is not there; SutureError for a Python that it does not run on.
    """
    try:
        return importlib.import_module("obstore")
    except ModuleNotFoundError as e:
        if sys.version_info < (3, 11):
            found = ".".join(map(str, sys.version_info[:2]))
            raise SutureError(
                f"stores are read by obstore, which needs Python 3.11 or later; this is {found}"
            ) from None
        raise UsageError(f"stores are read by the extra `cloud` (no module {e.name}): pip install obstore") from None


def endpoint_of(store: Any) -> str:
    """Where a client asks: the endpoint or the account of a store; empty if its URL says all."""
    config = dict(getattr(store, "config", None) or {})
    return " ".join(f"{key}={config[key]}" for key in sorted(config) if key in _WHERE)


@cache
def opened(scheme: str, root: str, headers: tuple[tuple[str, str], ...] = ()) -> Any:
    """The client of a bucket, a container or a server.

    Raises:
        SutureError: if the library is not there, or refuses the configuration.
    """
    library()
    stores = importlib.import_module("obstore.store")
    options: dict[str, Any] = {"timeout": "15m", "read_timeout": "30s", "connect_timeout": "10s"}
    options["user_agent"] = "suture"
    if headers:
        options["default_headers"] = dict(headers)
    how: dict[str, Any] = {"client_options": options, "retry_config": _RETRIES}
    try:
        if scheme == "s3":
            config, provider = credentials.of_s3()
            if credentials.allows_http(config):
                options["allow_http"] = True
            return stores.S3Store(root, config=config, credential_provider=provider, **how)
        if scheme == "gs":
            return stores.GCSStore(root, **how)
        if scheme == "az":
            return stores.AzureStore(root, **how)
        if scheme == "http":
            options["allow_http"] = True
        return stores.HTTPStore(f"{scheme}://{root}", **how)
    except SutureError:
        raise
    except Exception as e:
        # What a library says of a configuration that it does not take.
        first = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise SutureError(f"{scheme}://{root}: cannot be opened: {first}") from None
