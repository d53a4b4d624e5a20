"""The read side: one set of views, made from the live state in Redis and the history in Postgres."""
