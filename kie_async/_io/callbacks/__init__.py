"""Callbacks: adapters for web servers, the receiver that verifies, and the confirmations that poll ``recordInfo``."""
