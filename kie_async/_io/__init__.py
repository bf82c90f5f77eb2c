"""The waiting layer: HTTP, timers, files and the journal, driven by the decisions of ``_core``."""
