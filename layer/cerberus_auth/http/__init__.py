"""HTTPS on sockets: deadlines, retries, kept connections, proxies."""
