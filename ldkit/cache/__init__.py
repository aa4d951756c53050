"""The teacher cache on disk: format, writing, reading."""
