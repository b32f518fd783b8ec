"""The tiny world: its videos and questions, and the warm-up of its models."""
