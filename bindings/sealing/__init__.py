"""The sealed history: encoding of events, Merkle trees, seals and their signatures, verification.

Pure functions: no SQL, no clock. `store/seals.py` reads and writes the rows, `jobs/seal.py` makes the seals, and
docs/reference/sealed-history.md defines every byte. The encryption of phones, which `bindings phones seal` begins,
is another thing: it is in `store/phone_keys.py`.
"""
