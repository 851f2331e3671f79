"""Training tasks: prompt templates, task families, and the Arrow data set of examples."""
