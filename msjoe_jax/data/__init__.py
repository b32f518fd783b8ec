"""Questions, videos and frames: reading, decoding, storing, batches."""
