"""bindings: the lifecycle manager for privacy-number bindings."""
