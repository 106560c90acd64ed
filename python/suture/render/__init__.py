"""From reports to text. Rendering computes nothing but its own layout."""
