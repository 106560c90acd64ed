"""Triton kernels: the forms that decide most merges, as few launches over all tensors of a model.

A kernel sees tables: of each tensor the addresses of its operands, its length and its coefficients. What it computes
is what the torch form computes; that is its test and its fallback.
"""
