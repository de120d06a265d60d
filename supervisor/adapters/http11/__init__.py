"""HTTP/1.1 for blocking code, on the standard library's :mod:`http.client`."""
