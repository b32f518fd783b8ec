"""What lies under decoding: streams, the clock, damage, display, and what was found on the way."""
