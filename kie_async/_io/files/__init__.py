"""Files: results on their way to disk, local files on their way to the upload host."""
