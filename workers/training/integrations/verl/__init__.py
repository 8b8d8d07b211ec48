"""Stock verl (0.9.1) driven through its own extension points."""
