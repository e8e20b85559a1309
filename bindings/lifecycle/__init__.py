"""One binding, from its intent to its end: bind, unbind, queries, admission, in-doubt bindings.

No SQL, no HTTP and no timer: those are in `store`, `http_transport` and `scheduler`. Work that the scheduler
runs over many bindings is in `jobs`.
"""
