"""CLIP, as open_clip and Hugging Face publish it."""
