"""Who may call and who looked: API keys, console sessions, the access log, investigations."""
