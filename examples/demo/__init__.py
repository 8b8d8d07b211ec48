"""``make demo``: one true run from launch to a reward that rises, on this machine."""
