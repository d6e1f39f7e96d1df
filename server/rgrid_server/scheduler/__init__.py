"""What happens to executions over time: submitting, claiming, leases, reports, logs and waiting for them."""
