"""Programs that make a peer's model of ours, each run in that peer's own environment."""
