"""A job between its create and its end: its row, who follows it, and what its waiters are told."""
