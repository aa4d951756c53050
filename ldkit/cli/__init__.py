"""The command line: each command is a doorway to one job."""
