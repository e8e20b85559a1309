"""The part of curl that the documentation uses, so that its examples run where curl is not installed.

`python curl.py [-i] [-s] [-X METHOD] [-H HEADER]... [-d BODY] URL` prints the body. It exits with 22 for an HTTP
error, as `curl --fail` does.
"""

from __future__ import annotations

import argparse
import sys

import requests

HTTP_ERROR = 22


def main() -> int:
    """Send one request and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="body")
    parser.add_argument("-i", dest="include_headers", action="store_true")
    parser.add_argument("-s", dest="silent", action="store_true")
    options = parser.parse_args()
    headers = dict(header.split(": ", 1) for header in options.headers)
    method = options.method or ("GET" if options.body is None else "POST")
    with requests.Session() as session:
        session.trust_env = False
        response = session.request(method, options.url, headers=headers, data=options.body, timeout=300)
    if options.include_headers:
        lines = [
            f"HTTP/1.1 {response.status_code}",
            *(f"{name}: {value}" for name, value in response.headers.items()),
        ]
        sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.write(response.text)
    return HTTP_ERROR if response.status_code >= requests.codes.bad_request else 0


if __name__ == "__main__":
    sys.exit(main())
