"""Endpoints: typed request, execute, typed answer. No web server in here."""
