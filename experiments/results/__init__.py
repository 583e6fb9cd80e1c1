"""The name of a run, and the result that it leaves."""
