"""Fetching a dataset version into this machine's cache."""
