"""Do language models understand preferences? Rating prediction from zero-shot to fine-tuned, beside all baselines.

Source: Kang et al. 2023, "Do LLMs Understand User Preferences?", arXiv 2305.06474.
"""
