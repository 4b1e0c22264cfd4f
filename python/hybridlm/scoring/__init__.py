"""The protocol of an honest score: experts, mixtures, test-time training, and the loop that joins them."""
