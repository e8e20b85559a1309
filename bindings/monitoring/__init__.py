"""Health checks, the overview and statistics: what operators, `doctor` and metrics read. Changes nothing."""
