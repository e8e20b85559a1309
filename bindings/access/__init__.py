"""API keys, console sessions, the access log of reveals and exports, and the queries of an investigation."""
