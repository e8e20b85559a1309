"""The HTTP API: routes, request and response bodies, and its OpenAPI document."""
