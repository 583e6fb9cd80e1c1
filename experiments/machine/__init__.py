"""The processor, the processes of a run, and the generators of random numbers."""
