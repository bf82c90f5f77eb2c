"""The signature vectors of ``tests/signature_vectors.py``, computed again by the ``openssl`` command."""

from __future__ import annotations

import subprocess

import pytest

from tests.signature_vectors import VECTORS, Vector


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.task_id)
def test_openssl_computes_the_vectors(vector: Vector) -> None:
    signer = ["openssl", "dgst", "-sha256", "-hmac", vector.key, "-binary"]
    digest = subprocess.run(signer, input=f"{vector.task_id}.{vector.stamp}".encode(), capture_output=True, check=True)
    encoder = ["openssl", "base64", "-A"]
    encoded = subprocess.run(encoder, input=digest.stdout, capture_output=True, check=True)

    assert vector.signature == encoded.stdout.decode()
