"""Text, tokens and bytes: documents, the tokenizer, shards, and how many bytes each token stands for."""
