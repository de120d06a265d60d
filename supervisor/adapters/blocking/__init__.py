"""What blocking code over HTTP/1.1 and HTTP/2 shares: the loop in its thread, links, errors, headers, codings."""
