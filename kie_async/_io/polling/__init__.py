"""Polling: the watchlist plans polls, the poller performs them, and the tracker applies the results to jobs."""
