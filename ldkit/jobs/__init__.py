"""The stories: each file is one command, read from top to bottom."""
