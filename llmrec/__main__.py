"""`python -m llmrec`, which is what `accelerate launch -m llmrec …` starts."""

from llmrec.cli.main import main

main()
