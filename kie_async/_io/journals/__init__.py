"""Journals: the interface, the implementations on SQLite and in memory, and the process locks."""
