"""The identity of a run, the hash of its code, and the result that it leaves."""
