"""Coefficients that are searched."""
