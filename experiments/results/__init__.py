"""What a run is known by, and what it leaves."""
