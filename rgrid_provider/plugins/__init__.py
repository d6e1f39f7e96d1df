"""The cost view: one set of pages, a doorway for each Airflow major."""
