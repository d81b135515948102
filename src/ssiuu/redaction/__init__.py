"""What is handed on without the facts: keyed digests in the place of texts, figures stay. No torch."""
