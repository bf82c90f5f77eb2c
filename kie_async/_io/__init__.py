"""The floor that waits: HTTP, timers, files and the journal, driven by what ``_core`` decides."""
