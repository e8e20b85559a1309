"""Values and rules of the domain, pure: no SQL, no HTTP, no clock.

Bindings, phones, the conflict policy, traces, roles and how values are serialized. Imports nothing of the package
outside this folder.
"""
