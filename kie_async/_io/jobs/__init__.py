"""Jobs from create to end: live jobs, transitions of their rows, resuming, waiting and resolving."""
