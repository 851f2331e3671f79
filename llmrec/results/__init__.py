"""Results that are kept: figures and what made them, looks at test parts, and runs that repeat a result."""
