"""The settings and what may be chosen, as pages for people; read from sources, without torch."""
