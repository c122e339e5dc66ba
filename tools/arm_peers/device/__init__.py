"""Programs that run a peer's model on the emulated core, by the Python that is emulated with it."""
