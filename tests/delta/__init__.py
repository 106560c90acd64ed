"""Deltas: taken, applied, taken out, named as inputs."""
