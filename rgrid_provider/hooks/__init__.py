"""RGrid's hooks for Airflow."""
