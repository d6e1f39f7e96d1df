"""What confines an attempt on the machine."""
