"""Foreign weights into our parameter trees: one table a model."""
