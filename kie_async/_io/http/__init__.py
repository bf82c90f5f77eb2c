"""HTTP: the transport over aiohttp, and the wait times between retries."""
