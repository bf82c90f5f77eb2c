"""Whether a download is what it claims to be, judged by its first bytes."""

from __future__ import annotations

from kie_async._media import Media

__all__ = ["claims_other", "looks_like_text"]

_FAMILIES = ("video", "image", "audio")


def looks_like_text(head: bytes) -> bool:
    """
    Whether *head* begins a page, a message or nothing at all, rather than media.

    >>> looks_like_text(b"  <html>"), looks_like_text(b'{"code":404}'), looks_like_text(b"")
    (True, True, True)
    """
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"", b"<", b"{", b"[")


def claims_other(content_type: str, media: Media | None) -> bool:
    """
    Whether *content_type* claims a kind of media that the file is not.

    >>> claims_other("video/mp4", None), claims_other("application/octet-stream", None)
    (True, False)
    """
    family = content_type.split("/", 1)[0].strip().lower()
    return family in _FAMILIES and (media is None or media.kind != family)
