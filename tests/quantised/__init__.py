"""Quantised checkpoints: a law a file."""
