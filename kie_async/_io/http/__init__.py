"""One exchange over HTTP, whom it may reach, and when it is worth another try."""
