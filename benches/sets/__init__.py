"""What end_to_end.py runs: the cases, the speed set, the memory set."""
