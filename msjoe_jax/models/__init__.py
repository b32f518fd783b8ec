"""Networks in Flax NNX: the MLLM, CLIP and the sampler, and what they share."""
