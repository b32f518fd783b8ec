"""Evaluation: arms, their scores, intervals and the table."""
