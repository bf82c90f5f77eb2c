"""The implementation of ``KieClient.map()``: rows are read, started, and followed to their outcomes."""
