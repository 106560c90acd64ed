"""The verbs that only read. Each is a module."""
