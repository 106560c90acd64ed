"""Outputs that a Ray cluster makes; where Ray is not installed there is nothing to test."""
