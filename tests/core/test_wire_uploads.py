"""What is written to the endpoints for files: the service's field names, and every value as it was given."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.wire import UPLOAD_FOLDER, upload_fields, write_base64_upload, write_download_url

names = st.text(max_size=30)


@given(names)
def test_an_uploads_form_names_the_folder_and_the_file(name: str) -> None:
    assert {"uploadPath": UPLOAD_FOLDER, "fileName": name} == upload_fields(name)


@given(st.binary(max_size=100), names)
def test_a_small_upload_carries_the_file_as_a_data_url(content: bytes, name: str) -> None:
    data_url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    body = write_base64_upload(data_url, name)

    assert {"base64Data": data_url, "uploadPath": UPLOAD_FOLDER, "fileName": name} == json.loads(body)


@given(st.text())
def test_a_fresh_link_is_asked_for_by_the_old_one(url: str) -> None:
    """Whatever the record says its URL is, it is JSON in UTF-8."""
    assert {"url": url} == json.loads(write_download_url(url).decode("utf-8"))


def test_the_folder_has_no_slash_at_either_end() -> None:
    """The schema wants it so."""
    assert UPLOAD_FOLDER
    assert UPLOAD_FOLDER.strip("/") == UPLOAD_FOLDER
