"""The command line ``sss``: one module per command, thin: parse, call, print."""
