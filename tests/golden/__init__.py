"""What others rely on, word for word: a change of these files is a change of a promise."""
