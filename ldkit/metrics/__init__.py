"""Average precision, and the file for the test server."""
