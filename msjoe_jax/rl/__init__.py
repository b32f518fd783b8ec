"""From rollouts to gradients: rewards, advantages, losses and the joint step."""
