"""Prompts, replies and tokenizers."""
