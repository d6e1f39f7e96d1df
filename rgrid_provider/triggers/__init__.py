"""RGrid's triggers for Airflow."""
