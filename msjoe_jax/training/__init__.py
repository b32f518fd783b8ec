"""Training: pretrain and joint, the pass rates and the order of their questions."""
