"""Where intents are written down: what a journal can do, on SQLite and in memory, and which process owns a row."""
