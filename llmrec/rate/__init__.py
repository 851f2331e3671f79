"""Rating prediction with language models, from zero-shot to fine-tuned, compared with baselines.

Source: Kang et al. 2023, "Do LLMs Understand User Preferences?", arXiv 2305.06474.
"""
