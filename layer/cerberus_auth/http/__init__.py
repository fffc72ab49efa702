"""HTTPS on http.client: deadlines, retries, kept connections, proxies."""
