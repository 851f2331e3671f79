"""A run: its plan of stages, the folder that they are written into, and how they are made, one after another."""
