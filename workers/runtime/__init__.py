"""The server of a runtime job: keeps sandboxes and lets trainers run commands in them."""
