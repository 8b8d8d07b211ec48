"""The synthetic world of the demo: small repair tasks, a tokenizer, a tiny model, a warm-up.

Everything here is made up so that reinforcement learning can be watched on two CPU cores. It says
nothing about what a real model can do.
"""
