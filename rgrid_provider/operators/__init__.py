"""RGrid's operators for Airflow."""
