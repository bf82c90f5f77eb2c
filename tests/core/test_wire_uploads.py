"""Test the requests of the file endpoints."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.wire import UPLOAD_FOLDER, upload_fields, write_base64_upload, write_download_url

names = st.text(max_size=30)


@given(names)
def test_upload_form_has_folder_and_file_name(name: str) -> None:
    assert {"uploadPath": UPLOAD_FOLDER, "fileName": name} == upload_fields(name)


@given(st.binary(max_size=100), names)
def test_base64_upload_has_a_data_url(content: bytes, name: str) -> None:
    data_url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    body = write_base64_upload(data_url, name)

    assert {"base64Data": data_url, "uploadPath": UPLOAD_FOLDER, "fileName": name} == json.loads(body)


@given(st.text())
def test_download_url_request_has_the_url(url: str) -> None:
    """Any URL of a record becomes JSON in UTF-8."""
    assert {"url": url} == json.loads(write_download_url(url).decode("utf-8"))


def test_upload_folder_has_no_outer_slash() -> None:
    """The service's schema requires it."""
    assert UPLOAD_FOLDER
    assert UPLOAD_FOLDER.strip("/") == UPLOAD_FOLDER
