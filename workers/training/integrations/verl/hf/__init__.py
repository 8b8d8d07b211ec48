"""The ``hf_cpu`` engine: Hugging Face models decoded in batches. No import of verl here:
its processes start in half the time without it."""
