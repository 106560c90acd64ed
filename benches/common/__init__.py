"""What the benchmarks share: timed processes and their memory, page cache, agreement, machine facts, results."""
