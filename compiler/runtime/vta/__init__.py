"""Running VTA programs: drivers (the simulator, boards under Linux) and what is loaded on them."""
