"""What is written to the endpoints for files, in the service's field names; ``wire`` reads their answers."""

from __future__ import annotations

import json

__all__ = ["UPLOAD_FOLDER", "upload_fields", "write_base64_upload", "write_download_url"]

#: The folder at the upload host; the schema wants one, without a slash at either end.
UPLOAD_FOLDER = "kie_async"


def upload_fields(name: str) -> dict[str, str]:
    """
    The fields of the form of a stream upload, beside the file itself, which is ``file``.

    >>> upload_fields("a.png")
    {'uploadPath': 'kie_async', 'fileName': 'a.png'}
    """
    return {"uploadPath": UPLOAD_FOLDER, "fileName": name}


def write_base64_upload(data_url: str, name: str) -> bytes:
    """
    The body of a base64 upload.

    Args:
        data_url: The file as a data URL.

        name: Its name there.
    """
    return json.dumps({"base64Data": data_url, **upload_fields(name)}).encode()


def write_download_url(url: str) -> bytes:
    """
    The body that asks for a fresh link to a result.

    >>> write_download_url("https://example.com/a.mp4")
    b'{"url": "https://example.com/a.mp4"}'
    """
    return json.dumps({"url": url}).encode()
