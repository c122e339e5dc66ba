"""Other runtimes' aarch64 builds under the counter that our own modules are estimated with."""
