"""Item ↔ code: ways to index items, telling twins apart, health of the codes, the catalogue folder."""
