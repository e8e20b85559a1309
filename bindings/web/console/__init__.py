"""The audit console: pages for whoever looks into a complaint or after the health of the bindings.

Server-rendered, offline, and whole with JavaScript off. Each page is a thin route over the service (`find`,
`binding`, `number`, ...); who may see it is decided in `door`, what it looks like in `templates`, and everything
that an answer carries (headers, cookies, the CSRF token) in `visit`. No phone ever stands in an address.
"""
