"""The program that runs inside every sandbox, and how it is compiled."""
