"""The verbs that write. Each is a module; what they share compiles a plan and runs it."""
