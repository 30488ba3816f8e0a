"""A checkpoint in the terminal: what is asked and remembered, how an answer is sampled, what is shown of it."""
