"""What is the final answer, and is it right."""
