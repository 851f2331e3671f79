"""What stands for an item: its text, and the vector of that text."""
