"""Datasets: their layout, their check, and their way into the store and into a trainer's cache."""
