"""Quantised layouts decoded by their formulas, in NumPy: a module a form."""
