"""A checkpoint behind OpenAI's interface: chat and plain completions from one engine."""
