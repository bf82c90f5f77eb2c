"""Benchmarks: each module answers one question, beside a bound and what people write instead. See README.md."""
