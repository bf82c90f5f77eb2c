"""
Our own token in the callback URL, in place of the idempotency key that the service lacks.

``recordInfo`` echoes the callback URL of a create, and the callback itself is posted to it. So a URL that only we can
have made proves which create a task belongs to. The secret derives from the API key: it survives restarts, is the same
in every worker, and needs no configuration.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import attrs

__all__ = [
    "CallbackToken",
    "account_of",
    "base_of",
    "callback_secret",
    "find_token",
    "make_callback_url",
    "make_token",
    "named_job",
    "verify_token",
]

_LABEL = b"kie_async callback token v1"
_ACCOUNT_LABEL = b"kie_async account v1"
#: 48 bits tell a handful of keys apart, and are too few to confirm a guess of a key.
_ACCOUNT_LENGTH = 12
#: 22 characters of base64 hold 128 bits: a guess succeeds once in 2**128.
_MAC_LENGTH = 22
_TOKEN = re.compile(r"(kj_[0-9a-f]{32})\.([1-9][0-9]{0,5})\.([A-Za-z0-9_-]{22})")


@attrs.frozen
class CallbackToken:
    """
    The content of a genuine callback token.

    Attributes:
        job_id: The job.

        attempt: The number of the attempt that carried it, from 1.

        older: True if it was made under another API key than the present one.
    """

    job_id: str
    attempt: int
    older: bool = attrs.field(default=False, repr=False)


def callback_secret(api_key: str) -> bytes:
    """Return the secret of an account's tokens: HMAC-SHA256 of a fixed label under the API key."""
    return hmac.digest(api_key.encode(), _LABEL, hashlib.sha256)


def account_of(api_key: str) -> str:
    """Return the fingerprint of an API key: 12 hexadecimal digits of an HMAC-SHA256 under it."""
    return hmac.digest(api_key.encode(), _ACCOUNT_LABEL, hashlib.sha256).hex()[:_ACCOUNT_LENGTH]


def _mac(secret: bytes, job_id: str, attempt: int) -> str:
    digest = hmac.digest(secret, f"{job_id}.{attempt}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode()[:_MAC_LENGTH]


def make_token(secret: bytes, job_id: str, attempt: int) -> str:
    """
    Return the token of one attempt: ``{job id}.{attempt}.{mac}``.

    >>> token = make_token(b"secret", "kj_" + "0" * 32, 1)
    >>> verify_token(b"secret", token)
    CallbackToken(job_id='kj_00000000000000000000000000000000', attempt=1)
    >>> verify_token(b"another", token) is None
    True
    """
    return f"{job_id}.{attempt}.{_mac(secret, job_id, attempt)}"


def verify_token(secret: bytes, token: str) -> CallbackToken | None:
    """Return the content of *token* if it is genuine, else None; compare in constant time."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    job_id, attempt, mac = match[1], int(match[2]), match[3]
    if not hmac.compare_digest(_mac(secret, job_id, attempt), mac):
        return None
    return CallbackToken(job_id, attempt)


def make_callback_url(base: str, secret: bytes, job_id: str, attempt: int) -> str:
    """
    Return the callback URL for the create of one attempt: *base*, a slash, the token, before any query.

    >>> make_callback_url("https://app.example.com/kie/?a=1", b"s", "kj_" + "0" * 32, 1)
    'https://app.example.com/kie/kj_00000000000000000000000000000000.1.8rYn5drkyvsylbD0ZzORp4?a=1'
    """
    path, mark, query = base.partition("?")
    return f"{path.rstrip('/')}/{make_token(secret, job_id, attempt)}{mark}{query}"


def base_of(url: str) -> str:
    """Return the base from which ``make_callback_url`` has made a URL, without slashes at its end."""
    path, mark, query = url.partition("?")
    return f"{path.rstrip('/').rpartition('/')[0]}{mark}{query}"


def find_token(secret: bytes, url: str, *older: bytes) -> CallbackToken | None:
    """
    Return the genuine token at the end of the path of *url*, else None; slashes may follow (frameworks add one).

    Args:
        secret: The secret of the present API key.

        url: The URL.

        *older: The secrets of other API keys.
    """
    last = _last_segment(url)
    if (token := verify_token(secret, last)) is not None:
        return token
    found = next((token for other in older if (token := verify_token(other, last)) is not None), None)
    return None if found is None else attrs.evolve(found, older=True)


def named_job(url: str) -> str | None:
    """Return the job that the token at the end of the path of *url* names, genuine or not; None without a token."""
    match = _TOKEN.fullmatch(_last_segment(url))
    return None if match is None else match[1]


def _last_segment(url: str) -> str:
    return url.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2]
