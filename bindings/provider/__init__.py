"""Everything that is HTTP to the provider; never imports store. `web.deliver` borrows `transport`.

`client` makes the calls, `transport` is the sockets below it, `outcome` is what they come to, `wire` knows
the field names, `statuses` the status codes, `signing` the signature, `circuit` when the account is refused;
`simulator` is the provider to try things on.
"""
