"""Who carries the bytes: the standard library, requests, or httpx."""
