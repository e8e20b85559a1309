"""The HTTP service: thin routes over `bindings.service`.

`api` holds the calls under /v1 and their OpenAPI document, `console` the pages. `middleware` is what every request
passes first, `auth` who may do what, `request` what all handlers share, `problems` the errors, `state` the parts
of a process, `server` the process itself. Importing this package imports nothing. No rule about bindings belongs
here.
"""
