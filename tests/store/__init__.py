"""Models in stores, against servers on the loopback."""
