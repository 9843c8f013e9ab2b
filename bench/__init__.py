"""Benchmarks: the product beside the pipe and other ways, over the emulated org and Azurite; never deployed."""
