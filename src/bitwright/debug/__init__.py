"""Why accuracy was lost, step by step, and what mends it."""
