"""What can go wrong between here and a store, in one line that says what to do."""

from __future__ import annotations

import re

from suture.errors import SutureError

_WHO = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    "hf": "HF_TOKEN, or `hf auth login`",
}
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status[^0-9]{0,12}(\d{3})|\b(\d{3}) [A-Z][a-z]+ ?[A-Za-z]*\b")
#: Where a machine asks for the keys of its role: what fails there is no matter of the model's store.
_ROLE = "://169.254.169.254/"
_RETRIED = re.compile(r"(after|exhausted) (\d+) retries")


def told(error: BaseException, url: str, *, writing: bool = False) -> SutureError:
    """An error of ours for what a store's library raises about `url`."""
    return SutureError(f"{url}: {words(error, url.partition(':')[0], writing=writing)}", url)


def is_gone(error: BaseException) -> bool:
    """Whether an error says that there is no such object."""
    return isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError"


def is_final(error: BaseException) -> bool:
    """Whether to try again makes no sense."""
    names = (
        "PreconditionError",
        "PermissionDeniedError",
        "UnauthenticatedError",
        "NotSupportedError",
        "InvalidPathError",
    )
    return is_gone(error) or type(error).__name__ in names or "non-partial" in str(error)


def words(error: BaseException, scheme: str, *, writing: bool = False) -> str:
    """What an error of a store's library says, without the URL."""
    text, kind = str(error), type(error).__name__
    found = _CODE.search(text)
    code = found[1] if found else ""
    who = _WHO.get(scheme, "the address")
    do = "write" if writing else "read"
    if code == "NoSuchBucket":
        return "there is no such bucket at this endpoint; check the name, AWS_ENDPOINT_URL and AWS_REGION"
    if scheme.startswith("http") and "redirect" in text.lower():
        return "the server leads elsewhere without end; give the address where the files are"
    if (
        code in ("AuthorizationHeaderMalformed", "PermanentRedirect")
        or "incorrect region" in text
        or "redirect" in text.lower()
    ):
        return "the bucket is in another region, or at another endpoint; set AWS_REGION (or AWS_ENDPOINT_URL)"
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        return f"the store does not take the credentials ({code}); check {who}"
    if _ROLE in text:
        return f"no credentials are set, and this machine has no role that could give some; set {who}"
    if kind == "UnauthenticatedError":
        return f"the store wants credentials; set {who}"
    refused = code in ("AccessDenied", "AllAccessDisabled", "AccountProblem") or " 403 " in text
    if kind == "PermissionDeniedError" or refused:
        return f"no permission to {do} it with these credentials ({code or 'HTTP 403'}); check {who}"
    if is_gone(error):
        return "there is no such object"
    if kind == "PreconditionError":
        return "was replaced while it was read; run this again once nobody writes to it"
    if kind == "NotSupportedError" or "non-partial" in text:
        return "the server does not send ranges of a file; download it, and name the folder"
    status = _STATUS.search(text)
    if status:
        number = status[1] or status[2]
        return f"the store fails (HTTP {number}{', ' + code if code else ''}); try again later"
    if "dns" in text.lower() or "connect" in text.lower():
        return f"cannot reach the store; is there a network, and is the endpoint right? ({_first(text)})"
    return f"the store cannot be read ({_first(text)})"


def _first(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return (lines or ["no reason given"])[0][:200]
