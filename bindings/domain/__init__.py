"""Values and rules of the domain. Pure: no SQL, no HTTP, no clock.

Bindings, phones, the conflict policy, traces, roles, explanations of failures, and the serialization of values.
Imports nothing of the package outside this folder.
"""
