"""Finished runs as tables, figures and pages; reads files, trains nothing."""

from experiments import files  # noqa: F401 (first: it keeps modules of the working folder out)
