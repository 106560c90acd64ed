"""Whose requests of S3 are: keys of the environment or of a profile, a role, or nobody's.

What the environment says (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_REGION, AWS_SKIP_SIGNATURE, a web identity, a
container's role, ...) obstore reads itself; of a profile it knows nothing.
"""

from __future__ import annotations

import configparser
import importlib
import logging
import os
import socket
from pathlib import Path
from typing import Any

from suture.errors import SutureError

#: What says by itself whose the requests are, without a profile.
_SAID = (
    "AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
_LOOPBACK = ("http://127.", "http://localhost", "http://[::1]")


def of_s3() -> tuple[dict[str, Any], Any]:
    """What obstore is to be told besides the environment, and what gives it keys, if something does.

    Raises:
        SutureError: if a profile is named that is not there, or needs boto3.
    """
    get = os.environ.get
    config: dict[str, Any] = {}
    named = get("AWS_PROFILE") or get("AWS_DEFAULT_PROFILE")
    profile = _profile(named or "default")
    if named and not profile:
        raise SutureError(f"AWS_PROFILE: no profile `{named}` in {_files()[0]} or {_files()[1]}")
    region = get("AWS_REGION") or get("AWS_DEFAULT_REGION") or profile.get("region")
    endpoint = (
        get("AWS_ENDPOINT_URL_S3") or get("AWS_ENDPOINT_URL") or get("AWS_ENDPOINT") or profile.get("endpoint_url")
    )
    # What is set to nothing obstore takes for an address, and panics.
    empty = next((n for n in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") if get(n) == ""), None)
    if empty is not None:
        raise SutureError(f"{empty}: is set to nothing; expected http://HOST or https://HOST, or leave it out")
    if endpoint:
        if not endpoint.startswith(("http://", "https://")):
            raise SutureError(
                f"AWS_ENDPOINT_URL: expected http://HOST or https://HOST, found `{endpoint}`"
                " (also AWS_ENDPOINT_URL_S3, AWS_ENDPOINT, endpoint_url of the profile)"
            )
        config["endpoint"] = endpoint
    if region:
        config["region"] = region
    if any(get(name) for name in _SAID):
        return config, None
    if "aws_access_key_id" in profile:
        keys = {"access_key_id": "aws_access_key_id", "secret_access_key": "aws_secret_access_key",
                "session_token": "aws_session_token"}  # fmt: skip
        return config | {ours: profile[theirs] for ours, theirs in keys.items() if theirs in profile}, None
    if {"role_arn", "sso_session", "sso_start_url", "credential_process"} & set(profile):
        return config, _by_boto3(named)
    if not _on_amazon():
        logging.getLogger("suture").warning(
            "no credentials found: S3 is asked as nobody (AWS_ACCESS_KEY_ID, AWS_PROFILE)"
        )
        config["skip_signature"] = True
    return config, None


def allows_http(config: dict[str, Any]) -> bool:
    """Whether the endpoint may be one without encryption: this machine's own, or where the user says so."""
    said = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on")
    endpoint = str(config.get("endpoint", ""))
    if endpoint.startswith("http://") and not said and not endpoint.startswith(_LOOPBACK):
        raise SutureError(f"{endpoint}: is an endpoint without encryption; set AWS_ALLOW_HTTP=true to use it")
    return said or endpoint.startswith(_LOOPBACK)


def _files() -> tuple[Path, Path]:
    home = Path(os.path.expanduser("~/.aws"))
    get = os.environ.get
    return (
        Path(get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"),
        Path(get("AWS_CONFIG_FILE") or home / "config"),
    )


def _profile(name: str) -> dict[str, str]:
    """What the two files say of a profile."""
    found: dict[str, str] = {}
    keys, config = _files()
    for path, section in ((config, name if name == "default" else f"profile {name}"), (keys, name)):
        reader = configparser.RawConfigParser()
        try:
            reader.read(path, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError) as e:
            raise SutureError(f"{path}: cannot be read: {e}", path) from None
        if reader.has_section(section):
            found |= dict(reader.items(section))
    return found


def _by_boto3(name: str | None) -> Any:
    """What gives keys of a profile that has them from elsewhere."""
    try:
        boto3 = importlib.import_module("boto3")
        provider = importlib.import_module("obstore.auth.boto3").Boto3CredentialProvider
    except ModuleNotFoundError:
        raise SutureError(
            f"AWS_PROFILE: the profile `{name or 'default'}` has its keys from a role, a log-in or a process, "
            "for which boto3 is needed: pip install boto3"
        ) from None
    return provider(boto3.Session(profile_name=name))


def _on_amazon() -> bool:
    """Whether this machine could have a role: whether the address that tells it answers."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    if os.environ.get("AWS_METADATA_ENDPOINT"):
        return True
    try:
        socket.create_connection(("169.254.169.254", 80), timeout=1).close()
    except OSError:
        return False
    return True
