"""Files: downloads of results to disk, and uploads of local images."""
