"""Health checks, overview and statistics, for `doctor`, readiness, metrics and the console. Changes nothing."""
