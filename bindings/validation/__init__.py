"""Checks of every argument, before any I/O.

`fields` checks one value; `requests` checks the arguments of one call and reports all field errors together.
"""
