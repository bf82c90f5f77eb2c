"""Callbacks in: the doors of the web servers, whose each callback is, and what ``recordInfo`` says of it."""
