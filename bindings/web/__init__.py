"""The HTTP service: thin routes over `bindings.service`, and what it sends to others (`deliver`).

Read `api` for what there is to call, `gate` for what every request passes first, `auth` for who may what,
`problems` for what a failure looks like, `bodies` for what comes in, `operations` and `openapi` for the document,
`server` for how it runs. Importing this package imports nothing.
"""
