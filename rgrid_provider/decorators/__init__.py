"""RGrid's decorators for Airflow."""
