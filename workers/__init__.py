"""Code that runs inside Skydeck's Slurm jobs."""
