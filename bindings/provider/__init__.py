"""All HTTP to the provider, and a simulator of it. Never imports `store`.

`client` makes the calls, `outcome` has their outcomes, `wire` the field names, `statuses` the status codes,
`signing` the signature, `circuit` the circuit breakers of the calls; `simulator` is a local provider for tests
and trials. The sockets are in `http_transport`, which webhooks use too.
"""
