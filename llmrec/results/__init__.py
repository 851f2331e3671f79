"""Recorded results: the ledger of test evaluations, and runs that reproduce a result."""
