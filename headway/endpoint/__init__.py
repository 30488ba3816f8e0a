"""A server that speaks OpenAI's chat completions, asked many times at once: paced, retried, counted, capped."""
