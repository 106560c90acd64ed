"""Tests of names on a hub; no network but the loopback."""
