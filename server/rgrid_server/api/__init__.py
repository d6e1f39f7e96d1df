"""The HTTP edge: routes, schemas, authentication, errors, streaming. No SQL, no rules."""
