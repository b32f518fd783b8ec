"""Rollouts: the steps of an episode on batches, compiled programs, model folders."""
