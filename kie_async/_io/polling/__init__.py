"""What runs at the service: which task is looked at when, and what a look changes."""
