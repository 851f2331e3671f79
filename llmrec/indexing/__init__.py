"""Items to codes: indexing methods, quantizers, collisions, health report, new items, the catalogue folder."""
