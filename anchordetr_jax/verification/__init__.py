"""The proof that this is the official detector."""
