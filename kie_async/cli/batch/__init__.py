"""The command ``batch``: a table of shots becomes files, a manifest and a page."""
