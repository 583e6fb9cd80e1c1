"""The loop that every method trains in, and what is measured of it."""
