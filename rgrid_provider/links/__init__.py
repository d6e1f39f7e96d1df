"""RGrid's links for Airflow."""
