"""From a command to the typed settings of a run."""
