"""Alignment after SFT: preference losses (DPO, S-DPO, IPO) and GRPO, with one row for a prompt and its answers."""
