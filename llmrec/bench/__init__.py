"""Speed, measured side by side: every claim is a ratio from one run, written into results/."""
