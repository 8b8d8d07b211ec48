"""A real Slurm on one Debian machine, in one folder, for demos and tests."""
