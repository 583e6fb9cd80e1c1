"""Forward passes of our own, over the modules and weights that transformers has loaded."""
