"""The audit console: server-rendered pages for auditors and on-call engineers.

The pages load nothing from other hosts and work without JavaScript. Each page is a thin route over the service
(`find`, `binding`, `number`, ...). `security` decides who may see a page, `templates` hold its markup, and
`page_context` adds what every response needs (headers, cookies, the CSRF token). A URL never contains a phone.
"""
