"""HTTP/2 for blocking code, over links in the background loop."""
