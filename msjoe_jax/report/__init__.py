"""Figures, pages and model cards."""
