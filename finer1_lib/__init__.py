"""Fine-R1 as a notebook-first reproducibility kit: the thin library that the notebooks call."""


__version__ = "0.1.0"
