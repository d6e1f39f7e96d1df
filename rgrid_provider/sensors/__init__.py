"""RGrid's sensors for Airflow."""
