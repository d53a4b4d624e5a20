"""`taskq api`: REST, WebSocket and metrics over the one Client and the one Reader."""
