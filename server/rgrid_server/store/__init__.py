"""SQL: tables, queries and migrations. Functions here take a connection and run inside its transaction."""
