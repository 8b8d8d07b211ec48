"""Examples that run: the demo, a sweep through REST."""
