"""Where the cells of a study are carried out: one file for each kind of place."""
