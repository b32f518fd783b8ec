"""Files, checkpoints, meshes, metrics: what a run stands on."""
