"""Webhooks: `endpoints` manages them, `sender` delivers events to them."""
