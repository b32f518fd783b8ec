"""Joint reinforcement learning of a multimodal LLM and a key-frame sampler, in JAX."""
