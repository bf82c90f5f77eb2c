"""Hypothesis strategies of the core's tests: the service's codes, ids of jobs, instants."""

from __future__ import annotations

from hypothesis import strategies as st

#: Every code that a page of the service lists.
DOCUMENTED_CODES = (
    *(200, 400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 422, 429, 430, 433),
    *(451, 455, 500, 501, 505, 531, 550),
)

codes = st.sampled_from(DOCUMENTED_CODES) | st.integers(-999, 9999)
statuses = st.sampled_from((*DOCUMENTED_CODES, 301, 302, 303, 307, 308, 502, 503, 504, 520)) | st.integers(100, 599)

job_ids = st.text("0123456789abcdef", min_size=32, max_size=32).map("kj_{}".format)
attempts = st.integers(1, 999_999)
secrets = st.binary(min_size=1, max_size=40)

#: Instants of a loop's clock, and durations: up to the clock of a machine that has been up for years, at its coarsest.
instants = st.floats(0.0, 1e8)
durations = st.floats(0.0, 1e4)
