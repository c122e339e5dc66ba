"""Matrix products on AMX tiles: what a kernel does with them, its code and its packed weights."""
