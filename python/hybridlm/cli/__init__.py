"""The `hybridlm` command line: one module per area, one function per command."""
