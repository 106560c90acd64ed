"""Models looked at with text."""
