"""The RGrid server: schedules, executes, caches and bills; everything behind the HTTP API."""
